//! Connections: how many there may be, and what is told to a client that speaks HTTP where TLS is spoken.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum_server::accept::Accept;
use duet_telemetry::metrics;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 46\r\n\r\nTLS is spoken on this port: begin with https.\n";
/// More of a plain request is not waited for before it is answered.
const PLAIN_REQUEST: usize = 4096;

/// How many connections there may be.
pub(crate) struct Places {
    most: usize,
    /// None where a proxy holds the connections of all clients.
    most_of_one: Option<usize>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection's place, given back when it ends.
struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    /// `most` in all; unless `behind_proxy`, one address may hold a quarter.
    pub(crate) fn new(most: usize, behind_proxy: bool) -> Self {
        let most_of_one = (!behind_proxy).then_some(most.div_ceil(4));
        Self { most, most_of_one, taken: Mutex::default() }
    }

    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_address.get(&address).copied().unwrap_or_default();
        if taken.all >= self.most || self.most_of_one.is_some_and(|most| own >= most) {
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        Some(Place { places: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.by_address.get_mut(&self.address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// Takes a connection up if there is a place for it, before anything is read of it.
#[derive(Clone)]
pub(crate) struct Bounded {
    pub(crate) places: Arc<Places>,
    /// Where TLS follows: how long the first byte may take.
    pub(crate) tls: Option<Duration>,
}

impl<S: Send + 'static> Accept<TcpStream, S> for Bounded {
    type Stream = Held;
    type Service = S;
    type Future = BoxFuture<'static, io::Result<(Held, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = stream.peer_addr().map(|peer| self.places.take(peer.ip()));
        let tls = self.tls;
        async move {
            let Some(place) = place? else {
                metrics().http_refused.with_label_values(&["connections"]).inc();
                return Err(io::Error::other("too many connections"));
            };
            let mut held = Held { stream, _place: place };
            held.stream.set_nodelay(true)?;
            if let Some(limit) = tls {
                tokio::time::timeout(limit, held.refuse_plain()).await??;
            }
            Ok((held, service))
        }
        .boxed()
    }
}

/// A connection and its place.
pub(crate) struct Held {
    stream: TcpStream,
    _place: Place,
}

impl Held {
    /// A record of TLS begins with a byte that is no letter; a request of HTTP begins with its method.
    async fn refuse_plain(&mut self) -> io::Result<()> {
        let mut first = [0];
        if self.stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !first[0].is_ascii_alphabetic() {
            return Ok(());
        }
        metrics().http_refused.with_label_values(&["plain_http"]).inc();
        // Unread bytes at the close would take the answer with them.
        let mut request = [0; PLAIN_REQUEST];
        let _some = self.stream.read(&mut request).await?;
        self.stream.write_all(PLAIN_ANSWER).await?;
        self.stream.shutdown().await?;
        Err(io::Error::other("plain HTTP where TLS is spoken"))
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_may_hold_a_quarter_and_gives_it_back() {
        let places = Arc::new(Places::new(8, false));
        let at = |n: u8| places.take(IpAddr::from([192, 0, 2, n]));
        let (one, two) = (at(1), at(1));
        assert!(one.is_some() && two.is_some() && at(1).is_none());
        let others: Vec<_> = (2..5).flat_map(|n| [at(n), at(n)]).collect();
        assert!(others.iter().all(Option::is_some) && at(9).is_none(), "all are taken");
        drop(one);
        assert!(at(9).is_some() && at(1).is_some());
        drop((two, others));
        assert!(places.taken.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn a_proxy_may_hold_all() {
        let places = Arc::new(Places::new(8, true));
        let all: Vec<_> = (0..8).map(|_| places.take(IpAddr::from([192, 0, 2, 1]))).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(places.take(IpAddr::from([192, 0, 2, 2])).is_none());
    }

    #[test]
    fn the_answer_to_plain_http_is_as_long_as_it_says() {
        let text = std::str::from_utf8(PLAIN_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
