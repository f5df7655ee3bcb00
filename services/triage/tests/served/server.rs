//! A server that answers as it is told, well or badly, byte by byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

pub(crate) const GOOD: &str = r#"{"kind":"chest-radiograph-frontal","kind_percent":97,"fitness":"fit","abnormal":"normal","abnormal_percent":3,"urgency":"routine"}"#;

/// What a request is answered by.
#[derive(Clone)]
pub(crate) enum Reply {
    /// A status, further headers and a body with its length.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Bytes as they are; then the connection is closed.
    Raw(Vec<u8>),
    /// The same, a byte at a time with a pause before each.
    Trickled(Vec<u8>, Duration),
    /// A good start and then chunks without end.
    Endless,
    /// Nothing, ever.
    Silence,
    /// The connection is reset.
    Reset,
    /// The same as another, later.
    Late(Duration, Box<Reply>),
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Whole(status, Vec::new(), serde_json::to_vec(body).unwrap())
    }

    /// A completion of the model `m` whose text is `content`, with the logprobs of a model that is sure of "normal".
    pub(crate) fn chat(content: &str) -> Self {
        Self::json(200, &completion(content))
    }
}

pub(crate) fn completion(content: &str) -> Value {
    let cut = content.rfind("\"normal\"").map_or(content.len(), |place| place + 1);
    let (before, value) = content.split_at(cut);
    let of = |token: &str, p: f64| json!({"token": token, "logprob": p.ln()});
    let mut first = of(value, 0.99);
    first["top_logprobs"] = json!([of(value, 0.99), of("abnormal", 0.01)]);
    let mut choice = json!({
        "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content},
    });
    if !value.is_empty() {
        choice["logprobs"] = json!({"content": [of(before, 1.0), first]});
    }
    json!({"object": "chat.completion", "model": "m", "system_fingerprint": "f-1", "choices": [choice]})
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = Box<dyn Fn(&Request, usize) -> Reply + Send + Sync>;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Script,
    requests: Mutex<Vec<Request>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    /// Answers each request by `script`, which is told how many came before.
    pub(crate) async fn start(
        script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            requests: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    /// Answers by one after the other, and by the last for good.
    pub(crate) async fn of(replies: Vec<Reply>) -> Self {
        Self::start(move |_, before| replies[before.min(replies.len() - 1)].clone()).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The most requests that were under way at a time.
    pub(crate) fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let Some(request) = read(&mut stream).await else { return };
    let before = {
        let mut requests = state.requests.lock().unwrap();
        requests.push(request.clone());
        requests.len() - 1
    };
    let now = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    state.most.fetch_max(now, Ordering::SeqCst);
    let mut reply = (state.script)(&request, before);
    while let Reply::Late(pause, later) = reply {
        sleep(pause).await;
        reply = *later;
    }
    state.under_way.fetch_sub(1, Ordering::SeqCst);
    // The client may have gone away.
    let _unheard = answer(stream, reply).await;
}

async fn answer(mut stream: TcpStream, reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Whole(status, headers, body) => {
            let mut head = format!("HTTP/1.1 {status} As told\r\nconnection: close\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
        }
        Reply::Raw(bytes) => stream.write_all(&bytes).await?,
        Reply::Trickled(bytes, pause) => {
            for byte in bytes {
                sleep(pause).await;
                stream.write_all(&[byte]).await?;
            }
        }
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(format!("1000\r\n{}\r\n", " ".repeat(0x1000)).as_bytes()).await?;
            }
        }
        Reply::Silence => sleep(Duration::from_secs(600)).await,
        Reply::Reset => {
            stream.set_zero_linger()?;
            drop(stream);
            return Ok(());
        }
        Reply::Late(..) => {}
    }
    stream.shutdown().await
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let end = bytes.windows(4).position(|own| own == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let length: usize = length.unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(Request { head, body: bytes[end + 4..].to_vec() });
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}
