//! An S3 server of the tests' own: the crate `s3s-fs`, over HTTP on a loopback port, with signatures checked. It keeps its
//! objects as files of a folder, which the tests look into.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "hospital";
const PREFIX: &str = "duet";
const KEY: &str = "duet-tests";
const SECRET: &str = "a secret of the tests";

/// A running server. It ends with the runtime that it was started on.
pub struct S3 {
    root: PathBuf,
    address: SocketAddr,
    stop: CancellationToken,
}

impl S3 {
    /// Starts a server on a free port whose objects are in `root`.
    ///
    /// # Errors
    ///
    /// Where there is no port, or the folder cannot be used.
    pub async fn start(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root.join(BUCKET))?;
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (address, stop) = serve(root, free).await?;
        Ok(Self { root: root.to_owned(), address, stop })
    }

    /// Goes away: connections break off, and new ones are refused.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Comes back at the same address, with what it had.
    ///
    /// # Errors
    ///
    /// Where somebody else has taken the port.
    pub async fn resume(&mut self) -> Result<()> {
        (_, self.stop) = serve(&self.root, self.address).await?;
        Ok(())
    }

    /// The variables by which a service finds the store.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DUET_BLOB_URL", format!("s3://{BUCKET}/{PREFIX}")),
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// The folder that the blob store's objects are in.
    pub fn objects(&self) -> PathBuf {
        self.root.join(BUCKET).join(PREFIX)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(root: &Path, address: SocketAddr) -> Result<(SocketAddr, CancellationToken)> {
    let store = FileSystem::new(root).map_err(|error| anyhow!("{}: {error:?}", root.display()))?;
    let mut service = S3ServiceBuilder::new(store);
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    let listener = TcpListener::bind(address).await.context("the S3 server has no port")?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = token.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else { break };
            let service = service.clone();
            connections.spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                // A client that goes away is the client's affair.
                let _ended = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
        connections.shutdown().await;
    });
    Ok((address, stop))
}
