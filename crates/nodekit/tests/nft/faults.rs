//! Injected faults: as planned, and with nothing of a failed transaction in the kernel.

use nodekit::Errno;
use nodekit::faulty::Faults;
use nodekit::nft::{Batch, Family, NftSocket, Table};

use crate::in_namespace;

fn table(name: &str) -> Batch {
    let mut batch = Batch::new(Family::Ip, name);
    batch.add_table(7, &Table::default());
    batch
}

#[test]
fn the_planned_transaction_fails_alone() {
    in_namespace(|| {
        let faults = Faults::default();
        let mut socket = NftSocket::with_faults(faults.clone()).unwrap();
        faults.fail_transaction(2, Errno::ENOMEM);
        socket.commit(&table("a")).unwrap();
        let error = socket.commit(&table("b")).unwrap_err();
        assert_eq!(
            (error.errno(), error.failures()[0].tag),
            (Some(Errno::ENOMEM), Some(7))
        );
        socket.commit(&table("c")).unwrap();
        let names: Vec<_> = socket
            .tables(None)
            .unwrap()
            .into_iter()
            .map(|t| t.name)
            .collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!((faults.transactions(), faults.operations()), (3, 3));
    });
}

#[test]
fn nothing_works_after_death_until_healed() {
    in_namespace(|| {
        let faults = Faults::default();
        let mut socket = NftSocket::with_faults(faults.clone()).unwrap();
        faults.die_after(2);
        socket.commit(&table("a")).unwrap();
        assert!(!faults.is_dead());
        socket.generation().unwrap();
        assert!(faults.is_dead());
        let shutdown = Some(Errno::ESHUTDOWN);
        assert_eq!(socket.commit(&table("b")).unwrap_err().errno(), shutdown);
        assert_eq!(socket.tables(None).unwrap_err().errno(), shutdown);
        assert_eq!(NftSocket::open().unwrap().tables(None).unwrap().len(), 1);
        faults.heal();
        socket.commit(&table("b")).unwrap();
        assert_eq!(socket.tables(None).unwrap().len(), 2);
    });
}

#[test]
fn a_fraction_fails_the_same_way_for_the_same_seed() {
    let run = |seed| {
        in_namespace(|| {
            let faults = Faults::default();
            let mut socket = NftSocket::with_faults(faults.clone()).unwrap();
            faults.fail_fraction(0.3, seed, Errno::EBUSY);
            (0..200)
                .map(|_| socket.commit(&table("a")).is_err())
                .collect::<Vec<_>>()
        })
    };
    let first = run(42);
    assert_eq!(first, run(42));
    assert_ne!(first, run(43));
    let failed = first.iter().filter(|failed| **failed).count();
    assert!((35..85).contains(&failed), "{failed} of 200 at 0.3");
}
