//! The listener, and what it has to be before other machines may reach it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, middleware::from_fn_with_state};
use axum_server::{Handle, Server, tls_rustls::RustlsAcceptor};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    connections::{Bounded, Places},
    gate::{Gate, guard, is_local},
    session,
    tls::{Tls, TlsError},
};

/// For a TLS handshake. Each goes on by itself: a silent one holds its own place and nobody else's.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request to arrive, and for a connection to be idle.
const HEAD: Duration = Duration::from_secs(30);
/// A longer head of a request is refused.
const HEAD_BYTES: usize = 128 << 10;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Probes and metrics alone, which hold nothing of anybody.
    Probes,
    /// Cases: images in, what was found in them, and pictures.
    Cases,
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Anybody could send and read.
    #[error(
        "http.listen is {address}, which other machines can reach, but {lacks}: make a token with `duet tokens new --name NAME` for http.tokens, and set http.tls_cert_file and http.tls_key_file; or listen on 127.0.0.1; or set http.behind_proxy = true where something in front does TLS and lets in only who may"
    )]
    Unprotected {
        /// Where it would listen.
        address: SocketAddr,
        /// What is missing, in words.
        lacks: &'static str,
    },
    /// TLS that cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What stands between the network and the routes.
pub struct Front {
    gate: Arc<Gate>,
    tls: Option<Tls>,
    places: Arc<Places>,
    handshake: Duration,
    head: Duration,
}

impl Front {
    /// The front of a listener at `address`, from a configuration that has been validated.
    ///
    /// # Errors
    ///
    /// Where other machines could reach cases without a token or in clear text, and where TLS cannot be made from its
    /// files.
    pub fn open(
        config: &Config,
        address: SocketAddr,
        exposure: Exposure,
    ) -> Result<Self, FrontError> {
        let knows_clients = !config.tokens.is_empty() || config.tls_client_ca_file.is_some();
        let lacks = match (knows_clients, config.tls_cert_file.is_some()) {
            (true, true) => None,
            (false, true) => Some("http.tokens is empty"),
            (true, false) => Some("http.tls_cert_file is not set"),
            (false, false) => Some("http.tokens is empty and http.tls_cert_file is not set"),
        };
        if let Some(lacks) = lacks
            && exposure == Exposure::Cases
            && !is_local(address)
            && !config.behind_proxy
        {
            return Err(FrontError::Unprotected { address, lacks });
        }
        let gate = Gate::new(config, address);
        gate.tell_expired();
        Ok(Self {
            gate: Arc::new(gate),
            tls: Tls::open(config)?,
            places: Arc::new(Places::new(config.max_connections, config.behind_proxy)),
            handshake: HANDSHAKE,
            head: HEAD,
        })
    }

    /// What the address begins with.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// `app` behind the gate, with the page's way in and out beside it.
    pub fn guard(&self, app: Router) -> Router {
        app.merge(session::router(self.gate.is_secure()))
            .layer(from_fn_with_state(Arc::clone(&self.gate), guard))
    }

    /// Serves `app` behind the gate until `stop`, and then until the requests that were taken up are answered.
    ///
    /// # Errors
    ///
    /// Where the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        app: Router,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let app = self.guard(app).into_make_service_with_connect_info::<SocketAddr>();
        let handle = Handle::<SocketAddr>::new();
        let mut server = Server::from_listener(listener).handle(handle.clone()).http1_only();
        let http = server.http_builder();
        http.http1().header_read_timeout(Some(self.head)).max_buf_size(HEAD_BYTES);
        let stopped = stop.clone();
        let stopping = tokio::spawn(async move {
            stopped.cancelled().await;
            handle.graceful_shutdown(None);
        });
        let bounded = |tls| Bounded { places: Arc::clone(&self.places), tls };
        let served = match self.tls {
            None => server.acceptor(bounded(None)).serve(app).await,
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(tls.config.clone())
                    .handshake_timeout(self.handshake)
                    .acceptor(bounded(Some(self.handshake)));
                let follow = tokio::spawn(tls.follow(stop));
                let served = server.acceptor(acceptor).serve(app).await;
                follow.abort();
                served
            }
        };
        stopping.abort();
        served
    }
}

#[cfg(test)]
mod tests;
