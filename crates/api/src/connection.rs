//! A client's connection that does not wait for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use crate::life::Life;
use crate::refusal::{self, Parting};

/// What an HTTP/2 client says first. Until it is told from HTTP/1, nobody else counts the time.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may take to say which version of HTTP it speaks.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take none of what is sent to it.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream that fails with [`io::ErrorKind::TimedOut`] when its client is silent at first, or stops to read.
///
/// How long a request's head or body may take is not known here: the server bounds that. An idle connection is ended by
/// its [`Life`].
///
/// The server answers what is no HTTP/1 with a head that says nothing more. That head is not sent: it is handed over
/// together with the stream, for an answer that tells why. A stream whose last words were a refusal is handed over as
/// well, since its client may still be sending.
pub struct Connection<I> {
    /// Until it is handed over.
    inner: Option<I>,
    parting: Option<oneshot::Sender<Parting<I>>>,
    /// Whether what was said last is a refusal.
    refusing: bool,
    life: Arc<Life>,
    /// How much of the preface has come, while it may still be one, and by when the rest must.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
    /// Since nothing more could be sent.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<I> Connection<I> {
    /// A connection that was accepted just now, and what is left to do for it once the server is done, if anything.
    pub fn new(inner: I, life: Arc<Life>) -> (Self, oneshot::Receiver<Parting<I>>) {
        let (parting, parted) = oneshot::channel();
        let connection = Self {
            inner: Some(inner),
            parting: Some(parting),
            refusing: false,
            life,
            opening: Some((0, Box::pin(sleep(FIRST_BYTES_TIMEOUT)))),
            stalled: None,
        };
        (connection, parted)
    }

    fn inner(&mut self) -> io::Result<Pin<&mut I>>
    where
        I: Unpin,
    {
        let inner = self.inner.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(inner))
    }

    /// Gives the stream away to whoever sees it to its end.
    fn hand_over(&mut self, bare: Option<Vec<u8>>) {
        if let (Some(stream), Some(parting)) = (self.inner.take(), self.parting.take()) {
            let _ = parting.send(Parting { stream, bare });
        }
    }

    /// Looks at bytes that are about to be written; tells whether they are a bare refusal, and so are not to be.
    fn says(&mut self, bytes: &[u8]) -> bool {
        // A part of a body may begin so as well, but JSON has no raw line breaks in its strings: never a bare head's.
        if !bytes.starts_with(b"HTTP/1.") {
            return false;
        }
        self.refusing = refusal::is_refusal(bytes);
        let bare = self.refusing && refusal::is_bare(bytes);
        if bare {
            self.hand_over(Some(bytes.to_vec()));
        }
        bare
    }

    /// Takes note of bytes that arrived.
    fn heard(&mut self, bytes: &[u8]) {
        if let Some((seen, _)) = &mut self.opening {
            let rest = &PREFACE[*seen..];
            *seen += bytes.len();
            // Nothing at all is the end of the stream.
            if bytes.is_empty() || bytes.len() >= rest.len() || !rest.starts_with(bytes) {
                self.opening = None;
                self.life.opened();
            }
        }
    }

    /// Passes on how a write went, unless none has gone anywhere for too long.
    fn wrote(
        &mut self,
        outcome: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(outcome) = outcome {
            self.stalled = None;
            self.life.sent(*outcome.as_ref().unwrap_or(&0));
            return Poll::Ready(outcome);
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(timed_out("the client does not read")))
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<I: Read + Unpin> Read for Connection<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((_, until)) = &mut this.opening else {
            return this.inner()?.poll_read(context, cursor);
        };
        // By way of a small buffer: what a cursor took cannot be looked at afterwards.
        let mut space = [0; PREFACE.len()];
        let most = cursor.remaining().min(space.len());
        let mut buffer = ReadBuf::new(&mut space[..most]);
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match Pin::new(inner).poll_read(context, buffer.unfilled()) {
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled();
                cursor.put_slice(bytes);
                this.heard(bytes);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(until.as_mut().poll(context));
                Poll::Ready(Err(timed_out("the client says nothing")))
            }
        }
    }
}

impl<I: Write + Unpin> Write for Connection<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.says(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let outcome = self.inner()?.poll_write(context, bytes);
        self.wrote(outcome, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refusing {
            self.hand_over(None);
        }
        match &mut self.inner {
            Some(inner) => Pin::new(inner).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(I::is_write_vectored)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|slice| self.says(slice)) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let outcome = self.inner()?.poll_write_vectored(context, slices);
        self.wrote(outcome, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let (mut connection, _parted) = Connection::new(TokioIo::new(ours), Arc::default());
        let mut write = async || {
            poll_fn(|context| Pin::new(&mut connection).poll_write(context, &[0; 16])).await
        };
        assert_eq!(write().await.unwrap(), 16);
        let began = tokio::time::Instant::now();
        let error = write().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= STALL_TIMEOUT);
    }
}
