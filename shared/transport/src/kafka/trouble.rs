//! What is wrong between a client and its cluster, in words; one log line for each change, not for each retry.

use std::{
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use duet_telemetry::metrics;
use rdkafka::{
    ClientContext, Statistics,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tracing::{debug, info, warn};

use super::{KafkaConfig, access::Tokens, bootstrap::Memory};
use crate::TransportError;

/// Kinds of trouble, by what ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No broker answers; ends when one is up.
    Unreachable,
    /// A credential was refused; ends when a broker is up.
    Credentials,
    /// The principal may not read this; ends with an assignment.
    Forbidden,
    /// The principal may not write this; ends with a commit.
    MayNotWrite,
    /// A topic is missing; ends with an assignment.
    UnknownTopic,
    /// This replica lost its partitions because it did not poll; ends with an assignment.
    Evicted,
    /// Records wait for a transaction that does not end; ends when none does.
    HeldUp,
}

const KINDS: [Kind; 7] = [
    Kind::Unreachable,
    Kind::Credentials,
    Kind::Forbidden,
    Kind::MayNotWrite,
    Kind::UnknownTopic,
    Kind::Evicted,
    Kind::HeldUp,
];

/// What is wrong at the moment.
pub(super) struct Trouble {
    address: String,
    /// Whether changes are logged. Where the caller gets an error to show, they need not be.
    logs: bool,
    current: Mutex<Option<(Kind, String)>>,
    /// Why the last connection ended, which the news that none is left does not say.
    disconnected: Mutex<Option<String>>,
}

impl Trouble {
    pub(super) fn new(address: &str) -> Self {
        Self::that_logs(true, address)
    }

    /// One whose words go to the caller alone.
    pub(super) fn quiet(address: &str) -> Self {
        Self::that_logs(false, address)
    }

    fn that_logs(logs: bool, address: &str) -> Self {
        if logs {
            // From nought, so that the first is an increase.
            for kind in KINDS {
                metrics().kafka_troubles.with_label_values(&[kind.label()]).inc_by(0);
            }
        }
        Self {
            address: address.to_owned(),
            logs,
            current: Mutex::new(None),
            disconnected: Mutex::new(None),
        }
    }

    fn disconnected(&self) -> MutexGuard<'_, Option<String>> {
        self.disconnected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same in words with what to do, or nothing.
    fn why_disconnected(&self) -> String {
        match self.disconnected().as_deref().map(|why| why.rsplit("]: ").next().unwrap_or(why)) {
            // Where TLS or SASL is missing or too much, the broker hangs up and says nothing.
            Some(why) if why.contains("Disconnected") => {
                format!(
                    " ({why}: where it runs, it may want TLS or SASL, see kafka.tls and kafka.sasl)"
                )
            }
            Some(why) => format!(" ({why})"),
            None => String::new(),
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<(Kind, String)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trouble in words with what to do, if there is one.
    pub(super) fn words(&self) -> Option<String> {
        self.current().as_ref().map(|(_, words)| words.clone())
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.current().as_ref().map(|(kind, _)| *kind)
    }

    /// Takes note of what the client tells. What heals by itself in no time is not trouble.
    pub(super) fn note(&self, code: Code, reason: &str) {
        let Some(kind) = kind_of(code) else {
            debug!(?code, reason, "the Kafka client tells");
            if code == Code::BrokerTransportFailure {
                *self.disconnected() = Some(reason.to_owned());
            }
            return;
        };
        let address = &self.address;
        let words = match kind {
            Kind::Unreachable => format!(
                "no Kafka broker answers at {address}: {reason}{}; check that it runs and that kafka.bootstrap names it. Work goes on by itself when it is back",
                self.why_disconnected()
            ),
            Kind::Credentials => format!(
                "the Kafka broker at {address} and this process do not accept each other: {reason}; check kafka.tls and kafka.sasl"
            ),
            Kind::Forbidden | Kind::MayNotWrite => format!(
                "the Kafka broker refused access: {reason}; give this principal the right by an ACL (`duet topics acls` prints which)"
            ),
            Kind::UnknownTopic => {
                format!("a topic is missing: {reason}; create it with `duet topics create`")
            }
            // Told by `is_held_up` alone; no code of the client's stands for it.
            Kind::HeldUp => format!("a transaction does not end: {reason}"),
            Kind::Evicted => format!(
                "this replica lost its partitions: {reason}. It joins again by itself, and what it had taken up is handed out again. Where this comes often, the process is stopped or starved: give it CPU and memory, or raise session.timeout.ms and max.poll.interval.ms in kafka.properties"
            ),
        };
        self.set(kind, words);
    }

    /// The principal may not write what it has to. Told once; ends with [`Trouble::is_committed`].
    pub(super) fn may_not_write(&self, reason: &str) {
        self.set(Kind::MayNotWrite, format!(
            "nothing can be written, and the records wait where they are: {reason}; give this principal the right by an ACL (`duet topics acls` prints which)"
        ));
    }

    /// Partition `partition` of `topic` has given nothing for `time`, because a transaction has not ended.
    pub(super) fn is_held_up(&self, topic: &str, partition: i32, time: Duration) {
        self.set(Kind::HeldUp, format!(
            "partition {partition} of {topic} has given nothing for {} s, because a transaction of it or of its offsets has not ended; one that is never going to end is found by `kafka-transactions.sh --bootstrap-server {} find-hanging --broker-id N` and ended by `… abort`. Work goes on by itself then",
            time.as_secs(), self.address
        ));
    }

    /// No partition is held up.
    pub(super) fn flows(&self) {
        self.clear(|kind| kind == Kind::HeldUp);
    }

    /// Outputs were written.
    pub(super) fn is_committed(&self) {
        self.clear(|kind| kind == Kind::MayNotWrite);
    }

    fn set(&self, kind: Kind, words: String) {
        let mut current = self.current();
        // A broker that refuses the credentials is also reported as one that is not there.
        let known = current.as_ref().map(|(kind, _)| *kind);
        if known == Some(kind) || (kind == Kind::Unreachable && known == Some(Kind::Credentials)) {
            return;
        }
        // Partitions are lost to all of these: where one is known, it is why.
        if kind == Kind::Evicted && known.is_some() {
            return;
        }
        if self.logs {
            warn!("{words}");
            metrics().kafka_troubles.with_label_values(&[kind.label()]).inc();
            self.show(known, Some(kind));
        }
        *current = Some((kind, words));
    }

    /// Brings the gauges up to date: each is the number of clients with that trouble.
    fn show(&self, before: Option<Kind>, now: Option<Kind>) {
        let gauge = &metrics().kafka_trouble;
        if let Some(kind) = before {
            gauge.with_label_values(&[kind.label()]).dec();
        }
        if let Some(kind) = now {
            gauge.with_label_values(&[kind.label()]).inc();
        }
    }

    fn clear(&self, ended: impl Fn(Kind) -> bool) {
        let mut current = self.current();
        let Some(kind) = current.as_ref().map(|(kind, _)| *kind).filter(|kind| ended(*kind)) else {
            return;
        };
        if self.logs {
            info!("Kafka: all is well again");
            self.show(Some(kind), None);
        }
        *current = None;
    }

    /// A broker is up.
    pub(super) fn broker_is_up(&self) {
        *self.disconnected() = None;
        self.clear(|kind| matches!(kind, Kind::Unreachable | Kind::Credentials));
    }

    /// Partitions were assigned: the group and its topics are there and open to us.
    pub(super) fn is_assigned(&self) {
        self.clear(|kind| !matches!(kind, Kind::Unreachable | Kind::MayNotWrite | Kind::HeldUp));
    }

    /// `error`, or what lies behind it, as the caller is to see it.
    pub(super) fn explain(&self, error: &KafkaError) -> TransportError {
        let words = self.words().unwrap_or_else(|| error.to_string());
        let kind = self.kind().or_else(|| error.rdkafka_error_code().and_then(kind_of));
        match kind {
            Some(Kind::Credentials | Kind::Forbidden | Kind::MayNotWrite) => {
                TransportError::Refused { reason: words }
            }
            Some(Kind::Unreachable) => {
                TransportError::Unreachable { address: self.address.clone(), reason: words }
            }
            _ => match error.rdkafka_error_code() {
                Some(code) if is_silence(code) => TransportError::Unreachable {
                    address: self.address.clone(),
                    reason: format!("{error}{}", self.why_disconnected()),
                },
                _ => TransportError::Client { reason: error.to_string() },
            },
        }
    }

    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Where the application polls, exceeding the interval shows as this log line only.
        if facility.contains("MAXPOLL") {
            self.note(Code::PollExceeded, message);
        } else {
            // That a broker hung up is no error to the client, and its guess at why is in this line alone.
            if facility.contains("FAIL") {
                *self.disconnected() = Some(message.to_owned());
            }
            debug!(target: "librdkafka", ?level, facility, "{message}");
        }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        if self.logs {
            self.show(self.kind(), None);
        }
    }
}

impl Kind {
    /// The metric's label.
    const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Credentials => "credentials",
            Self::Forbidden | Self::MayNotWrite => "forbidden",
            Self::UnknownTopic => "unknown_topic",
            Self::Evicted => "evicted",
            Self::HeldUp => "held_up",
        }
    }
}

fn kind_of(code: Code) -> Option<Kind> {
    Some(match code {
        Code::AllBrokersDown => Kind::Unreachable,
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => Kind::Credentials,
        Code::UnsupportedSASLMechanism | Code::IllegalSASLState => Kind::Credentials,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Kind::Forbidden,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            Kind::UnknownTopic
        }
        Code::PollExceeded => Kind::Evicted,
        _ => return None,
    })
}

/// Codes that say no more than that no answer came.
pub(super) fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::AllBrokersDown
            | Code::NetworkException
            | Code::WaitingForCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
    )
}

/// The context of a client of which nothing but its trouble is of interest.
pub(super) struct Listener {
    trouble: Arc<Trouble>,
    tokens: Tokens,
    pub(super) memory: Arc<Memory>,
}

impl Listener {
    pub(super) fn new(config: &KafkaConfig, trouble: &Arc<Trouble>) -> Self {
        Self { trouble: Arc::clone(trouble), tokens: config.tokens(), memory: Arc::default() }
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.tokens.read()
    }

    fn stats(&self, statistics: Statistics) {
        self.memory.observe(&statistics);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.trouble.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.trouble.note(code, reason);
        }
    }
}

impl rdkafka::consumer::ConsumerContext for Listener {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_stays_until_what_ends_it() {
        let trouble = Trouble::new("nowhere:1");
        trouble.note(Code::AllBrokersDown, "1/1 brokers are down");
        assert!(trouble.words().unwrap().contains("nowhere:1"));
        trouble.is_assigned();
        assert!(trouble.words().is_some(), "an assignment does not bring a broker up");
        trouble.broker_is_up();
        assert_eq!(trouble.words(), None);

        trouble.note(Code::UnknownTopicOrPartition, "duet.images");
        trouble.broker_is_up();
        trouble.note(Code::PollExceeded, "its partitions went with it");
        assert!(trouble.words().unwrap().contains("duet topics create"));
        trouble.is_assigned();
        assert_eq!(trouble.words(), None);
    }

    #[test]
    fn every_trouble_has_words_with_what_to_do_and_a_metric_that_goes_with_it() {
        for (code, kind, remedy) in [
            (Code::AllBrokersDown, "unreachable", "kafka.bootstrap"),
            (Code::Authentication, "credentials", "kafka.sasl"),
            (Code::GroupAuthorizationFailed, "forbidden", "ACL"),
            (Code::UnknownTopicOrPartition, "unknown_topic", "duet topics create"),
            (Code::PollExceeded, "evicted", "max.poll.interval.ms"),
        ] {
            let trouble = Trouble::new("a:1");
            // Other tests of this process have troubles as well.
            let count = || metrics().kafka_troubles.with_label_values(&[kind]).get();
            let before = count();
            trouble.note(code, "the client's words");
            trouble.note(code, "the client's words, again");
            assert!(count() > before, "{kind}");
            let words = trouble.words().unwrap();
            assert!(words.contains(remedy) && words.contains("the client's words"), "{words}");
        }
        let trouble = Trouble::new("a:1");
        trouble.log(
            RDKafkaLogLevel::Warning,
            "MAXPOLL",
            "Application maximum poll interval exceeded",
        );
        assert_eq!(trouble.kind(), Some(Kind::Evicted));
    }

    #[test]
    fn a_principal_that_may_not_write_is_told_until_it_may() {
        let trouble = Trouble::new("a:1");
        trouble.may_not_write("Topic authorization failed");
        trouble.is_assigned();
        trouble.broker_is_up();
        assert!(trouble.words().unwrap().contains("duet topics acls"));
        trouble.is_committed();
        assert_eq!(trouble.words(), None);
    }

    #[test]
    fn what_waits_for_a_transaction_is_told_until_it_flows() {
        let trouble = Trouble::new("a:1");
        trouble.is_held_up("duet.images", 3, Duration::from_secs(75));
        trouble.is_assigned();
        trouble.broker_is_up();
        let words = trouble.words().unwrap();
        assert!(
            words.starts_with("partition 3 of duet.images has given nothing for 75 s"),
            "{words}"
        );
        assert!(words.contains("--bootstrap-server a:1 find-hanging"), "{words}");
        trouble.flows();
        assert_eq!(trouble.words(), None);
    }

    #[test]
    fn why_the_last_connection_ended_is_told_with_the_silence() {
        let trouble = Trouble::new("a:1");
        let words = "[thrd:a:1/bootstrap]: a:1/bootstrap: Disconnected: connection closed by peer";
        trouble.log(RDKafkaLogLevel::Info, "FAIL", words);
        assert_eq!(trouble.words(), None);
        trouble.note(Code::AllBrokersDown, "1/1 brokers are down");
        let words = trouble.words().unwrap();
        assert!(
            words.contains("(a:1/bootstrap: Disconnected") && words.contains("kafka.tls"),
            "{words}"
        );
    }

    #[test]
    fn refused_credentials_are_not_hidden_by_the_silence_that_follows() {
        let trouble = Trouble::new("a:1");
        trouble.note(Code::Authentication, "wrong password");
        trouble.note(Code::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(trouble.kind(), Some(Kind::Credentials));
        let seen = trouble.explain(&KafkaError::MetadataFetch(Code::OperationTimedOut));
        assert!(matches!(seen, TransportError::Refused { .. }), "{seen}");
    }
}
