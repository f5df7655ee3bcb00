//! TLS as clients meet it: by a certificate of the test's own authority, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use duet_http::{Config, Exposure, Front};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, Stream,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "duet.example";

/// An authority and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(parameters, key), certificate }
    }

    fn sign(&self, year: i32) -> (Certificate, KeyPair) {
        let mut parameters = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 1, 2);
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (parameters.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes a new certificate and its key into the files that `config` names.
    fn renew(&self, config: &Config, year: i32) {
        let (certificate, key) = self.sign(year);
        fs::write(config.tls_cert_file.as_ref().unwrap(), certificate.pem()).unwrap();
        fs::write(config.tls_key_file.as_ref().unwrap(), key.serialize_pem()).unwrap();
    }

    /// A client that trusts this authority and nobody else.
    fn client(&self, own: Option<(Certificate, KeyPair)>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        })
    }
}

fn config(folder: &Path) -> Config {
    let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    Config { tls_cert_file: Some(cert), tls_key_file: Some(key), ..Config::default() }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(config: &Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Front::open(config, address, Exposure::Cases).unwrap();
        let stop = CancellationToken::new();
        let app = Router::new()
            .route("/v1/cases", get(|| async { "cases" }))
            .route("/healthz", get(|| async { "alive" }));
        let served = tokio::spawn(front.serve(listener, app, stop.clone()));
        Self { address, stop, served }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The answer to GET `path`, and the certificate that the server showed.
async fn ask(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    path: &'static str,
) -> io::Result<(String, CertificateDer<'static>)> {
    let client = Arc::clone(client);
    let asked = tokio::task::spawn_blocking(move || {
        let mut tls = ClientConnection::new(client, NAME.try_into().unwrap()).unwrap();
        let mut stream = connect(address);
        let mut stream = Stream::new(&mut tls, &mut stream);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let shown = tls.peer_certificates().unwrap()[0].clone().into_owned();
        Ok((answer, shown))
    });
    asked.await.unwrap()
}

#[tokio::test]
async fn it_speaks_tls_alone_and_a_silent_client_holds_nobody_up() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let config = config(folder.path());
    authority.renew(&config, 2050);
    let running = Running::start(&config).await;
    let client = authority.client(None);
    let address = running.address;

    // They hold their connections open and say nothing, or half of a greeting.
    let silent: Vec<_> = (0..20).map(|_| connect(address)).collect();
    let half: Vec<_> = (0..20).map(|_| connect(address)).collect();
    half.iter().for_each(|mut stream| stream.write_all(&[0x16, 3, 1, 2]).unwrap());
    let (answer, _) = ask(address, &client, "/v1/cases").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("cases"), "{answer}");

    let plain = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address);
        stream.write_all(b"GET /v1/cases HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let plain = plain.await.unwrap();
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("https"), "{plain}");

    assert!(ask(address, &Authority::new().client(None), "/v1/cases").await.is_err());
    // Bytes that are neither.
    let noise = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address);
        stream.write_all(&[0; 64]).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        answer
    });
    assert!(!noise.await.unwrap().starts_with(b"HTTP"));
    drop((silent, half));
    running.end().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_into_use() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let config = config(folder.path());
    authority.renew(&config, 2050);
    let running = Running::start(&config).await;
    let client = authority.client(None);
    let (_, first) = ask(running.address, &client, "/healthz").await.unwrap();
    authority.renew(&config, 2060);
    let started = Instant::now();
    while ask(running.address, &client, "/healthz").await.unwrap().1 == first {
        assert!(started.elapsed() < PATIENCE, "the renewed certificate is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.end().await;
}

#[tokio::test]
async fn where_client_certificates_are_asked_for_only_probes_go_without() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = folder.path().join("ca.crt");
    fs::write(&ca, authority.certificate.pem()).unwrap();
    let config = Config { tls_client_ca_file: Some(ca), ..config(folder.path()) };
    authority.renew(&config, 2050);
    let running = Running::start(&config).await;
    let (own, none) = (authority.client(Some(authority.sign(2050))), authority.client(None));
    let foreign = authority.client(Some(Authority::new().sign(2050)));
    let mut answers = Vec::new();
    for (client, path) in [(&own, "/v1/cases"), (&none, "/v1/cases"), (&none, "/healthz")] {
        let (answer, _) = ask(running.address, client, path).await.unwrap();
        answers.push(answer.get(9..12).unwrap().to_owned());
    }
    assert_eq!(answers, ["200", "403", "200"]);
    assert!(ask(running.address, &foreign, "/healthz").await.is_err());
    running.end().await;
}

#[test]
fn files_that_cannot_be_used_stop_the_start_by_name() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let config = config(folder.path());
    let open = || {
        let opened = Front::open(&config, ([127, 0, 0, 1], 0).into(), Exposure::Cases);
        opened.map(|_| ()).map_err(|error| error.to_string())
    };
    let (cert, key) =
        (config.tls_cert_file.as_ref().unwrap(), config.tls_key_file.as_ref().unwrap());
    let says = |words: &[&str]| {
        let message = open().unwrap_err();
        assert!(words.iter().all(|words| message.contains(words)), "{words:?}: {message}");
    };
    says(&["http.tls_cert_file", "tls.crt cannot be read"]);
    fs::write(cert, "no certificate").unwrap();
    says(&["http.tls_cert_file", "holds no certificate in PEM"]);
    authority.renew(&config, 2050);
    assert_eq!(open(), Ok(()));
    fs::write(key, "no key").unwrap();
    says(&["http.tls_key_file", "holds no private key in PEM"]);
    fs::write(key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    says(&["http.tls_cert_file and http.tls_key_file cannot be used together"]);
}
