//! A real OpenAI-compatible vision server: llama.cpp's, with a tiny model of random weights.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use duet_case::Digest;
use tempfile::TempDir;

use crate::Guarded;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// With it a grammar holds; the default template of llama.cpp's server cannot keep to one.
pub const TEMPLATE: [&str; 3] = ["--no-jinja", "--chat-template", "vicuna"];

/// A running server. Dropping it stops it.
pub struct VlmServer {
    port: u16,
    _server: Guarded,
    _folder: TempDir,
}

impl VlmServer {
    /// The key that opens it.
    pub const KEY: &'static str = "vlm-test-key";
    /// What it calls its model.
    pub const MODEL: &'static str = "tiny-random";

    /// Starts one with further arguments and waits until it has loaded its model. The first on a machine compiles it.
    ///
    /// # Errors
    ///
    /// Says what to install where it cannot be built. Tests fail with it; they are not skipped.
    pub fn start(further: &[&str]) -> Result<Self> {
        let (binary, models) = parts()?;
        let folder = tempfile::Builder::new().prefix("duet-vlm-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(binary);
        command.arg("-m").arg(models.join("model.gguf"));
        command.arg("--mmproj").arg(models.join("mmproj.gguf"));
        command.args(["--alias", Self::MODEL, "--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["-c", "4096", "-np", "1", "-t", "1", "--api-key", Self::KEY]).args(further);
        let log = folder.path().join("server.log");
        let server = Guarded::start("llama.cpp's server", &command, &log, None)?;
        server.wait_until(Duration::from_secs(120), |_| is_loaded(port).unwrap_or(false))?;
        Ok(Self { port, _server: server, _folder: folder })
    }

    /// The base address of its OpenAI-compatible part.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

fn is_loaded(port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(&start[9..] == b"200")
}

/// The server's binary and the folder of the model's files.
fn parts() -> Result<(PathBuf, PathBuf)> {
    static PARTS: OnceLock<Result<(PathBuf, PathBuf), String>> = OnceLock::new();
    let made = PARTS.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.clone().map_err(|error| anyhow!("no vision server to test against: {error}"))
}

fn make() -> Result<(PathBuf, PathBuf)> {
    let script = Path::new(ROOT).join(".ci/vlm-server");
    let built = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be run", script.display()))?;
    if !built.status.success() {
        bail!("{} failed: its output says why", script.display());
    }
    let folder = PathBuf::from(String::from_utf8(built.stdout)?.trim());
    let binary = folder.join("llama-server");

    // The same script makes the same model: it stays in the cache too.
    let maker = Path::new(ROOT).join("tests/vlm/model.py");
    let digest = Digest::of(&fs::read(&maker)?).to_string();
    let models = folder.join(format!("model-{}", digest.get(..16).unwrap_or(&digest)));
    if models.is_dir() {
        return Ok((binary, models));
    }
    let filling = tempfile::Builder::new().prefix("filling-").tempdir_in(&folder)?;
    let made = Command::new("python3")
        .arg(maker)
        .arg(folder.join("ggml-vocab-llama-spm.gguf"))
        .arg(filling.path())
        .output()
        .context("python3 cannot be run: apt-get install -y python3")?;
    if !made.status.success() {
        bail!("tests/vlm/model.py failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    // Another process may have been quicker.
    match fs::rename(filling.keep(), &models) {
        Err(error) if !models.is_dir() => Err(error).context("the model cannot be kept"),
        _ => Ok((binary, models)),
    }
}
