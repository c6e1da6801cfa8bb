//! Sockets: accept, serve HTTP/1.1 and h2 with bounds on everything, stop gracefully.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Requests in flight on one h2 connection.
const H2_STREAMS: u32 = 256;
/// Time that requests in flight have when the gateway stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Bounds of the front.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// A connection that sends no (or no whole) head for this long is closed.
    pub head: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Requests in flight finish.
    Draining,
    /// Whatever is left is dropped.
    Over,
}

/// Spawns tasks that end when it is over, also if nobody answers them.
#[derive(Debug, Clone)]
struct Tasks(watch::Receiver<Phase>);

impl Tasks {
    async fn reached(&self, least: Phase) {
        let mut phase = self.0.clone();
        // Without its sender it is over as well.
        let _over = phase.wait_for(|phase| *phase >= least).await.is_ok();
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        let tasks = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = future => {}
                () = tasks.reached(Phase::Over) => {}
            }
        });
    }
}

/// Serves until `stop` is ready, then lets requests in flight finish.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let (phase, phases) = watch::channel(Phase::Serving);
    let tasks = Tasks(phases);
    let mut builder = auto::Builder::new(tasks.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let builder = Arc::new(builder);
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else {
            continue;
        };
        // An answer is one small segment: waiting for more would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let service =
            hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer);
                hyper::service::Service::call(&service, request)
            });
        let (builder, watcher, draining) =
            (Arc::clone(&builder), graceful.watcher(), tasks.clone());
        hyper::rt::Executor::execute(&tasks, async move {
            let opened = tokio::select! {
                biased;
                opened = tokio::time::timeout(limits.head, open(stream)) => opened,
                () = draining.reached(Phase::Draining) => return,
            };
            // Silent for too long, or gone.
            let Ok(Ok(stream)) = opened else {
                return;
            };
            let connection = builder
                .serve_connection(TokioIo::new(stream), service)
                .into_owned();
            // A client that hangs up or talks nonsense is not our error.
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    phase.send_replace(Phase::Draining);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            "requests were still in flight after {} s; stopping without them",
            DRAIN.as_secs()
        );
    }
    phase.send_replace(Phase::Over);
}

const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads as much as tells HTTP/1.1 from h2. The library waits for that without a bound.
async fn open(mut stream: TcpStream) -> io::Result<Opened> {
    let mut first = [0; H2_PREFACE.len()];
    let mut filled = 0;
    while filled < first.len() && H2_PREFACE.starts_with(first.get(..filled).unwrap_or_default()) {
        let read = stream
            .read(first.get_mut(filled..).unwrap_or_default())
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    Ok(Opened {
        stream,
        first,
        unread: 0..filled,
    })
}

/// A connection whose first bytes were read already.
#[derive(Debug)]
struct Opened {
    stream: TcpStream,
    first: [u8; H2_PREFACE.len()],
    unread: std::ops::Range<usize>,
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let end = self.unread.end.min(self.unread.start + buffer.remaining());
        buffer.put_slice(self.first.get(self.unread.start..end).unwrap_or_default());
        self.unread.start = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

type Accepted = (
    TcpStream,
    std::net::SocketAddr,
    tokio::sync::OwnedSemaphorePermit,
);

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> Option<Accepted> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            // Out of file descriptors, most likely: wait for some to be closed.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
