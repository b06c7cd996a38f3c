//! The body of a `multipart/byteranges` response: heads of parts in turn with parts of the file.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame, SizeHint};
use medusa_plugin_api::File;

use crate::{multipart::Frame, range::Span};

/// A body of several parts of one file.
pub(crate) struct Parts {
    frame: Frame,
    spans: Vec<Span>,
    piece_bytes: usize,
    /// Bytes that are still to come.
    left: u64,
    /// The part that is next or being sent.
    part: usize,
    state: State,
}

enum State {
    /// The head of the part is next.
    Head(File),
    /// A piece of the part is being read; this many bytes of it come after.
    Reading {
        reading: Reading,
        left: u64,
    },
    Ended,
}

type Reading = Pin<Box<dyn Future<Output = (File, Span, io::Result<Bytes>)>>>;

impl Parts {
    /// `frame` is that of `spans`.
    pub(crate) fn new(file: File, frame: Frame, spans: Vec<Span>, piece_bytes: usize) -> Parts {
        let left = frame.length;
        Parts { frame, spans, piece_bytes, left, part: 0, state: State::Head(file) }
    }

    /// Begins to read the rest of a part, or goes on to the next one.
    fn go_on(&mut self, file: File, rest: Span) {
        if rest.length == 0 {
            self.part += 1;
            self.state = State::Head(file);
            return;
        }
        let piece_bytes = rest.length.min(self.piece_bytes as u64);
        let span = Span { start: rest.start, length: piece_bytes };
        self.state = State::Reading { reading: Box::pin(read(file, span)), left: rest.length };
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<BodyFrame<Bytes>>>> {
        let this = self.get_mut();
        let data = match std::mem::replace(&mut this.state, State::Ended) {
            State::Ended => return Poll::Ready(None),
            State::Head(file) => match this.frame.heads.get_mut(this.part) {
                Some(head) => {
                    let head = Bytes::from(std::mem::take(head));
                    this.go_on(file, this.spans[this.part]);
                    head
                }
                None => Bytes::from(std::mem::take(&mut this.frame.end)),
            },
            State::Reading { mut reading, left } => {
                let Poll::Ready((file, read, bytes)) = reading.as_mut().poll(context) else {
                    this.state = State::Reading { reading, left };
                    return Poll::Pending;
                };
                let bytes = bytes?;
                let count = bytes.len() as u64;
                this.go_on(file, Span { start: read.start + count, length: left - count });
                bytes
            }
        };
        this.left = this.left.saturating_sub(data.len() as u64);
        Poll::Ready(Some(Ok(BodyFrame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads at least one byte of `span`.
async fn read(mut file: File, span: Span) -> (File, Span, io::Result<Bytes>) {
    let mut bytes = vec![0; usize::try_from(span.length).unwrap_or(usize::MAX)];
    let bytes = match file.read_at(span.start, &mut bytes).await {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            bytes.truncate(count);
            Ok(Bytes::from(bytes))
        }
        Err(error) => Err(error),
    };
    (file, span, bytes)
}
