//! Bodies that the plugin produces: streams, other crates' bodies, ranges of files.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_core::Stream;
use http_body::{Body as _, Frame, SizeHint};

use crate::{
    error::{Error, Result},
    file::File,
    local::{LoopCell, Resident, Slab},
};

/// A range of a file.
pub(crate) struct FileBody {
    pub(crate) file: File,
    pub(crate) offset: u64,
    pub(crate) left: u64,
}

/// Anything of the plugin's own that gives frames.
pub(crate) struct StreamBody {
    source: Resident<BoxedSource>,
    hint: SizeHint,
    ended: bool,
}

type BoxedSource = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error>>>;

static STREAMS: LoopCell<Slab<BoxedSource>> = LoopCell::new(Slab::new());

/// Where a file is read for somebody who wants frames: in pieces of this many bytes.
const FILE_PIECE_BYTES: usize = 64 * 1024;

/// Drops the streams that were leaked or dropped on another thread.
pub(crate) fn clear_streams() {
    if let Some(streams) = STREAMS.get() {
        streams.clear();
    }
}

impl FileBody {
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(FILE_PIECE_BYTES);
        let mut piece = vec![0; wanted];
        let read = match ready!(self.file.poll_read_at(context, self.offset, &mut piece)) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            result => result,
        };
        Poll::Ready(Some(match read {
            Ok(count) => {
                piece.truncate(count);
                self.offset += count as u64;
                self.left -= count as u64;
                Ok(Frame::data(piece.into()))
            }
            Err(error) => {
                self.left = 0;
                Err(Error::from(error).context("cannot read the rest of the file"))
            }
        }))
    }
}

impl StreamBody {
    pub(crate) fn from_stream<S, B, E>(stream: S) -> StreamBody
    where
        S: Stream<Item = Result<B, E>> + 'static,
        B: Into<Bytes>,
        E: Into<Error>,
    {
        StreamBody::new(Box::pin(FromStream(Box::pin(stream))))
    }

    pub(crate) fn wrap<B>(body: B) -> StreamBody
    where
        B: http_body::Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        StreamBody::new(Box::pin(Wrapped(Box::pin(body))))
    }

    fn new(source: BoxedSource) -> StreamBody {
        let hint = source.size_hint();
        let source = Resident::new(&STREAMS, source).expect(
            "a streaming body is made on the loop's thread; make it there, or use Body::full",
        );
        StreamBody { source, hint, ended: false }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended || self.hint.exact() == Some(0)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.hint
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.source.with(|source| {
            let frame = source.as_mut().poll_frame(context);
            (frame, source.size_hint())
        });
        let Some((frame, hint)) = polled else {
            self.ended = true;
            let text =
                "a streaming body can be read on the loop's thread only, and not after it panicked";
            return Poll::Ready(Some(Err(Error::new(text))));
        };
        self.hint = hint;
        self.ended = matches!(frame, Poll::Ready(None | Some(Err(_))));
        frame
    }
}

struct FromStream<S>(Pin<Box<S>>);

impl<S, B, E> http_body::Body for FromStream<S>
where
    S: Stream<Item = Result<B, E>>,
    B: Into<Bytes>,
    E: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let item = ready!(self.0.as_mut().poll_next(context));
        Poll::Ready(
            item.map(|item| item.map(|piece| Frame::data(piece.into())).map_err(Into::into)),
        )
    }
}

struct Wrapped<B>(Pin<Box<B>>);

impl<B> http_body::Body for Wrapped<B>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let frame = ready!(self.0.as_mut().poll_frame(context));
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(Error::from_boxed(error)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
