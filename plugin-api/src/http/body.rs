//! The body of a request or a response: bytes, a stream, part of a file, or what the host has and is asked for.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http_body::{Frame, SizeHint};
use medusa_abi::data::Handle;

use crate::{
    error::{Error, Result},
    file::File,
    handle::Owned,
    http::{
        limited::Limited,
        pulled::Pulled,
        stream::{FileBody, StreamBody},
    },
};

/// A body, to be read once. It is `Send`, whatever it is made of: what must stay on the loop's thread stays there, and the
/// body holds its number.
///
/// It implements `http_body::Body` with `Bytes` as data, so that the crates around hyper and tower can use it. Dropping it
/// early cancels whoever produces it.
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
pub(crate) enum Inner {
    #[default]
    Empty,
    Full(Bytes),
    /// The exchange is somebody else's: the handler's, for a request's body.
    Pulled(Pulled),
    /// The response that the host got for us, which this owns.
    Exchange(Pulled, Owned),
    File(FileBody),
    Stream(StreamBody),
}

impl Body {
    /// No body.
    #[must_use]
    pub const fn empty() -> Body {
        Body(Inner::Empty)
    }

    /// All of the body.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::empty() } else { Body(Inner::Full(bytes)) }
    }

    /// The pieces of a stream, as they come. It may hold `Rc`s and the like.
    ///
    /// # Panics
    /// Off the loop's thread.
    pub fn stream<S, B, E>(stream: S) -> Body
    where
        S: Stream<Item = Result<B, E>> + 'static,
        B: Into<Bytes>,
        E: Into<Error>,
    {
        Body(Inner::Stream(StreamBody::from_stream(stream)))
    }

    /// Another crate's body: axum's, `http_body_util`'s.
    ///
    /// # Panics
    /// Off the loop's thread.
    pub fn wrap<B>(body: B) -> Body
    where
        B: http_body::Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if body.is_end_stream() {
            return Body::empty();
        }
        Body(Inner::Stream(StreamBody::wrap(body)))
    }

    /// `length` bytes of a file from `offset`, sent by the kernel where that is possible.
    #[must_use]
    pub fn file(file: File, offset: u64, length: u64) -> Body {
        Body(Inner::File(FileBody { file, offset, left: length }))
    }

    /// All of the body, collected.
    ///
    /// # Errors
    /// When it is longer than `bytes_max`, and when whoever sends it fails or goes.
    pub async fn bytes(mut self, bytes_max: usize) -> Result<Bytes> {
        if let Inner::Full(bytes) = &mut self.0
            && bytes.len() <= bytes_max
        {
            return Ok(std::mem::take(bytes));
        }
        let too_long = || Error::new(format!("the body is longer than {bytes_max} bytes"));
        if http_body::Body::size_hint(&self).lower() > bytes_max as u64 {
            return Err(too_long());
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = self.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if first.len() + rest.len() + data.len() > bytes_max {
                return Err(too_long());
            }
            if first.is_empty() {
                first = data;
                continue;
            }
            rest.extend_from_slice(&data);
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }

    /// All of the body, as UTF-8 text.
    ///
    /// # Errors
    /// As [`Body::bytes`], and for what is not UTF-8.
    pub async fn text(self, bytes_max: usize) -> Result<String> {
        let bytes = self.bytes(bytes_max).await?;
        String::from_utf8(bytes.into())
            .map_err(|error| Error::from(error).context("the body is not UTF-8 text"))
    }

    /// The next frame, data or trailers; `None` after the last.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>>> {
        std::future::poll_fn(|context| http_body::Body::poll_frame(Pin::new(&mut *self), context))
            .await
    }

    /// The next piece of data; `None` after the last. Trailers are left out.
    pub async fn data(&mut self) -> Option<Result<Bytes>> {
        loop {
            match self.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The same body, which fails where it gets longer than `bytes_max`.
    #[must_use]
    pub fn limited(self, bytes_max: u64) -> Limited {
        Limited::new(self, bytes_max)
    }

    /// How many bytes there are, if that is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        http_body::Body::size_hint(self).exact()
    }

    pub(crate) fn of_request(exchange: Handle, length: u64) -> Body {
        if length == 0 {
            return Body::empty();
        }
        Body(Inner::Pulled(Pulled::request(exchange, length)))
    }

    /// The body of the response of `exchange`, which is ended by somebody else.
    pub(crate) fn of_lent_exchange(exchange: Handle, length: u64) -> Body {
        Body(Inner::Pulled(Pulled::response(exchange, length)))
    }

    pub(crate) fn of_exchange(exchange: Owned, length: u64) -> Body {
        Body(Inner::Exchange(Pulled::response(exchange.get(), length), exchange))
    }

    pub(crate) fn from_inner(inner: Inner) -> Body {
        Body(inner)
    }

    pub(crate) fn whole(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Full(bytes) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(crate) fn into_inner(self) -> Inner {
        self.0
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        match &mut this.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Pulled(body) | Inner::Exchange(body, _) => body.poll_frame(context),
            Inner::File(body) => body.poll_frame(context),
            Inner::Stream(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Full(_) => false,
            Inner::Pulled(body) | Inner::Exchange(body, _) => body.is_ended(),
            Inner::File(body) => body.left == 0,
            Inner::Stream(body) => body.is_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Pulled(body) | Inner::Exchange(body, _) => body.size_hint(),
            Inner::File(body) => SizeHint::with_exact(body.left),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::full(text)
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::full(text)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::full(bytes)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body::full(bytes)
    }
}

impl From<()> for Body {
    fn from((): ()) -> Body {
        Body::empty()
    }
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Body>();
};
