//! librdkafka's errors: which of them pass, and how they are said.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};

use crate::log::LogError;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Whether the same question may be answered a moment later: a broker starts, a leader moves, a connection is made again.
pub(super) fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::ConcurrentTransactions
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotLeaderForPartition
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::UnstableOffsetCommit
            | Code::WaitingForCoordinator
    )
}

/// Asks again, with longer and longer pauses, while what comes back may pass. `ask` is given the time that is left.
pub(super) fn patiently<T>(limit: Duration, mut ask: impl FnMut(Duration) -> KafkaResult<T>) -> KafkaResult<T> {
    let give_up = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let error = match ask(left.max(FIRST_PAUSE)) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() || !error.rdkafka_error_code().is_some_and(passes) {
            return Err(error);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Says an error without the value of the property that it is about: it may be a secret.
pub(super) fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("property {key} is not accepted: there is none of that name, or its value is not one of those it takes")
        }
        KafkaError::ClientCreation(said) => said.clone(),
        other => other.to_string(),
    }
}

/// What a connection that fails says, and what to do about it. The first that is found counts.
const CONNECTIONS: [(&str, &str); 7] = [
    ("SASL authentication error", "are sasl.username and sasl.password in kafka.properties right, and is sasl.mechanism that user's?"),
    (
        "certificate verify failed",
        "is ssl.ca.location in kafka.properties the authority that signed the broker's certificate, has that one not expired, and is it for \
         the host that is named here?",
    ),
    (
        "SSL alert",
        "the broker asks for a certificate, or does not take ours: ssl.certificate.location and ssl.key.location in kafka.properties",
    ),
    ("SSL handshake failed", "are security.protocol and ssl.* in kafka.properties right?"),
    // A listener closes on a client that speaks another protocol.
    ("in state APIVERSION_QUERY", "is security.protocol in kafka.properties that listener's?"),
    ("security.protocol", "is security.protocol in kafka.properties that listener's?"),
    ("must be set", "put it into kafka.properties"),
];

/// Whether a broker was there and did not let us in: asking again changes nothing.
pub(super) fn is_refusal(said: &str) -> bool {
    CONNECTIONS.iter().any(|(words, _)| said.contains(words))
}

/// Returns what to do about a failed connection, by what librdkafka says of it.
pub(super) fn advice(said: &str) -> &'static str {
    let found = CONNECTIONS.iter().find(|(words, _)| said.contains(words));
    found.map_or("is it running, and reachable from here?", |(_, advice)| advice)
}

pub(super) fn unavailable(doing: String, error: &KafkaError) -> LogError {
    LogError::Unavailable { doing, reason: reason(error) }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    #[test]
    fn what_may_pass_is_asked_again_until_it_has() {
        let mut answers = vec![Ok(7), Err(KafkaError::MetadataFetch(Code::CoordinatorLoadInProgress))];
        assert_eq!(patiently(Duration::from_secs(5), |_| answers.pop().unwrap()), Ok(7));
    }

    #[test]
    fn what_stays_is_asked_once_and_what_never_passes_not_for_ever() {
        let mut asked = 0;
        let refused = patiently(Duration::from_secs(5), |_| -> KafkaResult<()> {
            asked += 1;
            Err(KafkaError::MetadataFetch(Code::TopicAuthorizationFailed))
        });
        assert!(refused.is_err());
        assert_eq!(asked, 1);
        let down = patiently(Duration::from_millis(50), |_| -> KafkaResult<()> { Err(KafkaError::MetadataFetch(Code::AllBrokersDown)) });
        assert!(down.is_err());
    }

    #[test]
    fn what_to_do_follows_from_what_was_said() {
        assert!(advice("SASL authentication error: no").contains("sasl.password"));
        assert!(advice("SSL handshake failed: certificate verify failed").contains("ssl.ca.location"));
        assert!(advice("Receive failed: alert bad certificate: SSL alert number 42").contains("ssl.key.location"));
        assert!(advice("Connection refused (in state CONNECT)").contains("reachable"));
    }

    #[test]
    fn the_value_of_a_property_is_never_said() {
        let config = |key: &str| {
            KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_INVALID, "Invalid value hunter2".into(), key.into(), "hunter2".into())
        };
        let said = reason(&config("sasl.password"));
        assert!(said.contains("sasl.password") && !said.contains("hunter2"), "{said}");
    }
}
