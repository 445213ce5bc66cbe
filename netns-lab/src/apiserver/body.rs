//! Response bodies: whole, in pieces, or for as long as a watch lasts.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

use super::Object;

/// How much of a list is put together at a time, in bytes.
const PIECE: usize = 128 * 1024;

/// What a response carries.
pub(crate) enum ResponseBody {
    Whole(Option<Bytes>),
    List(ListBody),
    Watch(mpsc::Receiver<Bytes>),
}

/// `head`, the objects with commas between them, `tail`.
pub(crate) struct ListBody {
    head: Bytes,
    objects: std::vec::IntoIter<Object>,
    tail: &'static [u8],
    started: bool,
    left: usize,
}

impl ListBody {
    pub(crate) fn new(head: String, objects: Vec<Object>, tail: &'static [u8]) -> Self {
        let commas = objects.len().saturating_sub(1);
        let items: usize = objects.iter().map(|object| object.json().len()).sum();
        let left = head.len() + items + commas + tail.len();
        Self {
            head: head.into(),
            objects: objects.into_iter(),
            tail,
            started: false,
            left,
        }
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let mut piece = Vec::with_capacity(PIECE.min(self.left));
        let mut first = !self.started;
        if first {
            self.started = true;
            piece.extend_from_slice(&self.head);
        }
        while piece.len() < PIECE {
            let Some(object) = self.objects.next() else {
                piece.extend_from_slice(self.tail);
                break;
            };
            if !first {
                piece.push(b',');
            }
            first = false;
            piece.extend_from_slice(object.json());
        }
        self.left = self.left.saturating_sub(piece.len());
        Some(piece.into())
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> Self {
        Self::Whole(Some(text.into()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::List(list) => Poll::Ready(list.next_piece()),
            Self::Watch(events) => events.poll_recv(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::List(list) => list.left == 0,
            Self::Watch(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let exact = |length: usize| u64::try_from(length).map(SizeHint::with_exact);
        match self {
            Self::Whole(bytes) => exact(bytes.as_ref().map_or(0, Bytes::len)).unwrap_or_default(),
            Self::List(list) => exact(list.left).unwrap_or_default(),
            Self::Watch(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::apiserver::Resource;

    fn collect(mut list: ListBody) -> (Vec<u8>, usize) {
        let (mut all, mut pieces) = (Vec::new(), 0);
        while let Some(piece) = list.next_piece() {
            all.extend_from_slice(&piece);
            pieces += 1;
        }
        (all, pieces)
    }

    #[test]
    fn a_list_has_the_length_it_promised_and_commas_across_pieces() {
        for count in [0, 1, 2, 500] {
            let objects: Vec<Object> = (0..count)
                .map(|number| {
                    let filling = "x".repeat(1000);
                    let value = json!({"metadata": {"name": format!("n{number}")}, "f": filling});
                    Object::new(Resource::Node, 1, &value)
                })
                .collect();
            let list = ListBody::new("{\"items\":[".to_owned(), objects, b"]}");
            let promised = list.left;
            let (bytes, pieces) = collect(list);
            assert_eq!(bytes.len(), promised);
            assert_eq!(pieces > 1, count == 500);
            let parsed: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(parsed["items"].as_array().unwrap().len(), count);
        }
    }
}
