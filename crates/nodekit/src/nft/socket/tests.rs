use super::*;
use crate::netlink::{NLMSG_DONE, NLMSG_ERROR, push_message};
use crate::nft::{Chain, Family, Table};

fn batch() -> Batch {
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_table(10, &Table::default());
    batch.add_chain(11, &Chain::regular("a"));
    batch.add_chain(12, &Chain::regular("b"));
    batch
}

/// What is made of these answers: message type, sequence number counted from the first operation,
/// errno.
fn outcome(answers: &[(u16, i64, i32)], lost: bool) -> Result<(), Error> {
    let batch = batch();
    let mut read = Answers {
        lost,
        ..Answers::default()
    };
    for (kind, index, code) in answers {
        let sequence = u32::try_from(i64::from(Batch::ACKNOWLEDGED) + index).unwrap();
        let mut bytes = Vec::new();
        let payload = [&(-code).to_ne_bytes()[..], &[0; 16]].concat();
        push_message(&mut bytes, *kind, 0, sequence, &payload);
        read.read(&batch, &bytes);
    }
    read.outcome(&batch, "commit")
}

#[test]
fn the_first_operations_acknowledgement_alone_is_success() {
    outcome(&[(NLMSG_ERROR, 0, 0)], false).unwrap();
    // Of BATCH_END (newer kernels), of a later message, of an earlier request, and no answer.
    let end = (NLMSG_ERROR, -1, 0);
    let stray = (NLMSG_ERROR, -i64::from(Batch::ACKNOWLEDGED) + 5, 0);
    for answers in [&[end][..], &[(NLMSG_ERROR, 2, 0)], &[stray], &[]] {
        let error = outcome(answers, false).unwrap_err();
        assert!(error.to_string().contains("no acknowledgement"), "{error}");
    }
}

#[test]
fn the_end_of_a_dump_is_no_acknowledgement() {
    let error = outcome(&[(NLMSG_DONE, 0, 0)], false).unwrap_err();
    assert!(error.to_string().contains("no acknowledgement"), "{error}");
}

#[test]
fn an_inner_error_counts_whatever_else_was_acknowledged() {
    let answers = [
        (NLMSG_ERROR, 0, 0),
        (NLMSG_ERROR, 1, 2),
        (NLMSG_ERROR, 2, 16),
        (NLMSG_ERROR, -1, 0),
    ];
    let error = outcome(&answers, false).unwrap_err();
    let told: Vec<_> = error.failures().iter().map(|f| (f.tag, f.errno)).collect();
    assert_eq!(told, [(Some(11), Errno::ENOENT), (Some(12), Errno::EBUSY)]);
}

#[test]
fn an_error_of_the_commit_itself_has_no_tag() {
    let error = outcome(&[(NLMSG_ERROR, 0, 0), (NLMSG_ERROR, -1, 12)], false).unwrap_err();
    assert_eq!(error.failures()[0].tag, None);
    assert_eq!(error.errno(), Some(Errno::ENOMEM));
}

#[test]
fn lost_answers_are_no_success() {
    let error = outcome(&[(NLMSG_ERROR, 0, 0)], true).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOBUFS));
}

#[test]
fn what_the_kernel_was_kept_from_is_asked_again() {
    for errno in [Errno::EAGAIN, Errno::EINTR, Errno::ERESTART] {
        assert!(kept_from(
            &outcome(&[(NLMSG_ERROR, -1, errno as i32)], false).unwrap_err()
        ));
    }
    assert!(!kept_from(
        &outcome(&[(NLMSG_ERROR, 1, 2)], false).unwrap_err()
    ));
}

#[test]
fn a_transaction_above_the_limit_is_refused_with_both_sizes() {
    let mut socket = NftSocket::open().unwrap();
    socket.make_room(1000).unwrap();
    let size = TRANSACTION_LIMIT + 1;
    let error = socket.make_room(size).unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: s, limit: TRANSACTION_LIMIT } if s == size));
}
