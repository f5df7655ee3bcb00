//! What the server can do, by a tiny drawn picture: does it answer, does it keep to the schema, what is its model called.

use bytes::Bytes;
use duet_case::Digest;
use image::{GrayImage, Luma};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use super::{FailureKind, Known, Served, ServedFailure, answer, exchange, plain, request};

/// Names that a message lists.
const NAMES_TOLD: usize = 8;

/// Why the server cannot be used now, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{address}: {message}")]
pub struct ProbeFault {
    address: String,
    message: String,
    /// Whether it may pass by itself: the server is starting, or away.
    pub may_pass: bool,
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// Ollama's own list.
#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    digest: String,
}

/// What an OpenAI-compatible server says of an error.
#[derive(Deserialize)]
struct Complaint {
    error: Told,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Object { message: String },
    Text(String),
}

impl Served {
    /// Asks the server for its model and for an answer about a drawn picture.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to do. Images are asked about all the same, and flagged where that fails.
    pub async fn probe(&self) -> Result<(), ProbeFault> {
        let model = match &self.config.model {
            Some(model) => Some(model.clone()),
            None => self.listed().await?,
        };
        let with = Known { model: model.clone(), digest: None, logprobs: true };
        let fault = match self.try_out(&with).await {
            Ok(()) => {
                self.settle(with).await;
                return Ok(());
            }
            Err(fault) => fault,
        };
        if fault.may_pass {
            return Err(fault);
        }
        // Not every server takes a request for logprobs; the first complaint stands where it is not about that.
        let without = Known { logprobs: false, ..with };
        match self.try_out(&without).await {
            Ok(()) => {
                self.settle(without).await;
                Ok(())
            }
            Err(_) => {
                self.learn(Known { logprobs: true, ..without });
                Err(fault)
            }
        }
    }

    async fn settle(&self, mut known: Known) {
        if let Some(model) = &known.model {
            known.digest = self.digest(model).await;
        }
        self.learn(known);
    }

    /// The one model that the server lists.
    async fn listed(&self) -> Result<Option<String>, ProbeFault> {
        let reply = self.exchange.get(self.exchange.endpoint.below("models"));
        let reply = self.within(reply).await?;
        if reply.status != StatusCode::OK {
            return Err(self.refused(&reply));
        }
        let names: Vec<String> = serde_json::from_slice::<Listed>(&reply.body)
            .map(|listed| listed.data.iter().filter_map(|own| plain(&own.id)).collect())
            .unwrap_or_default();
        match names.as_slice() {
            [one] => Ok(Some(one.clone())),
            [] => Err(self.fault(
                false,
                "it lists no model: name the one to ask by triage.backend.model, or correct triage.backend.url (it mostly ends in /v1)",
            )),
            several => {
                let told: Vec<_> =
                    several.iter().take(NAMES_TOLD).map(|name| self.exchange.excerpt(name)).collect();
                let told = told.join(", ");
                Err(self.fault(
                    false,
                    &format!("it lists {} models ({told}): name the one to ask by triage.backend.model", several.len()),
                ))
            }
        }
    }

    async fn try_out(&self, known: &Known) -> Result<(), ProbeFault> {
        let question = self.drawn(known)?;
        let reply = self.within(self.exchange.try_chat(question)).await?;
        if reply.status != StatusCode::OK {
            return Err(self.refused(&reply));
        }
        match answer::read(&reply.body) {
            Ok(_) => Ok(()),
            Err(failure) => {
                let what = match failure.kind {
                    FailureKind::NotSchema => {
                        "it answers, but does not keep to the response_format (json_schema) that was asked for: use a server and a model with structured output (llama.cpp's: without --skip-chat-parsing)".to_owned()
                    }
                    _ => format!("a drawn picture got no answer that counts: {failure}"),
                };
                Err(self.fault(false, &what))
            }
        }
    }

    fn drawn(&self, known: &Known) -> Result<Bytes, ProbeFault> {
        let picture = GrayImage::from_fn(64, 64, |x, y| Luma([(x * 2 + y) as u8]));
        request::body(&picture, &self.config, known.model.as_deref(), known.logprobs)
            .map_err(|error| self.fault(false, &error.to_string()))
    }

    /// The digest of the weights, which Ollama tells.
    async fn digest(&self, model: &str) -> Option<Digest> {
        let tags = self.exchange.get(self.exchange.endpoint.at_root("/api/tags")?);
        let reply = self.within(tags).await.ok().filter(|reply| reply.status == StatusCode::OK)?;
        let tags: Tags = serde_json::from_slice(&reply.body).ok()?;
        let latest = format!("{model}:latest");
        let own = tags.models.iter().find(|own| own.name == model || own.name == latest)?;
        own.digest.parse().ok()
    }

    async fn within(
        &self,
        reply: impl Future<Output = Result<exchange::Reply, ServedFailure>>,
    ) -> Result<exchange::Reply, ProbeFault> {
        match timeout(self.config.deadline(), reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(failure)) => {
                let what = format!("{failure}: start the server, or correct triage.backend.url");
                Err(self.fault(failure.kind.may_pass(), &what))
            }
            Err(_) => {
                let seconds = self.config.deadline().as_secs_f64();
                let what = format!(
                    "no answer about a drawn picture within {seconds} s: a faster server or model, or a longer triage.backend.deadline_ms"
                );
                Err(self.fault(true, &what))
            }
        }
    }

    fn refused(&self, reply: &exchange::Reply) -> ProbeFault {
        let kind = exchange::kind_of(reply.status);
        let code = reply.status.as_u16();
        let told =
            serde_json::from_slice::<Complaint>(&reply.body).ok().map(|own| match own.error {
                Told::Object { message } | Told::Text(message) => self.exchange.excerpt(&message),
            });
        let told =
            told.filter(|text| !text.is_empty()).map_or(String::new(), |text| format!(" ({text})"));
        let what = match kind {
            FailureKind::Unauthorised if self.exchange.has_key() => format!(
                "status {code}: it refuses the key: correct triage.backend.api_key_file or DUET_TRIAGE_BACKEND_API_KEY"
            ),
            FailureKind::Unauthorised => format!(
                "status {code}: it asks for a key: give it by triage.backend.api_key_file or DUET_TRIAGE_BACKEND_API_KEY"
            ),
            FailureKind::RateLimited | FailureKind::ServerError => {
                format!("status {code}{told}: it is starting, or overloaded")
            }
            _ => format!(
                "status {code}{told}: it does not take a picture with response_format json_schema: correct triage.backend.url, triage.backend.model or how the server is started (llama.cpp's: with --mmproj and a chat template that takes a grammar)"
            ),
        };
        self.fault(kind.may_pass(), &what)
    }

    fn fault(&self, may_pass: bool, message: &str) -> ProbeFault {
        ProbeFault { address: self.address(), message: message.to_owned(), may_pass }
    }
}
