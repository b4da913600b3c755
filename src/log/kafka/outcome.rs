//! What became of a transaction, from what librdkafka reports about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::log::TransactError;

/// Whether the code says that somebody else has taken over: our transactional id, or our seat in the group.
pub(super) fn is_fenced(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced
            | Code::FencedInstanceId
            | Code::IllegalGeneration
            | Code::InvalidProducerEpoch
            | Code::ProducerFenced
            | Code::UnknownMemberId
    )
}

pub(super) fn is_too_large(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize)
}

/// A failed transactional call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Option<Code>,
    /// The client can go on only by aborting: the broker has refused.
    pub(super) abortable: bool,
    pub(super) reason: String,
}

impl Failure {
    /// `fatal` is the client's own fatal error, which tells more than the call that met it.
    pub(super) fn of(error: &KafkaError, fatal: Option<(Code, String)>) -> Self {
        let abortable = matches!(error, KafkaError::Transaction(error) if error.txn_requires_abort());
        match fatal {
            Some((code, reason)) => Self { code: Some(code), abortable, reason },
            None => Self { code: error.rdkafka_error_code(), abortable, reason: error.to_string() },
        }
    }

    /// What it means while no commit has been asked for: nothing will be visible.
    pub(super) fn before_commit(self, id: &str) -> TransactError {
        match self.code {
            Some(code) if is_fenced(code) => TransactError::Fenced { id: id.to_owned() },
            _ => TransactError::Aborted { reason: self.reason },
        }
    }
}

/// What a commit came to. `trouble` is what the client reported meanwhile.
///
/// librdkafka sends the end of a transaction again by itself when it was not answered. Then success says only that one of
/// them arrived, and the other may still be under way: such a commit is unknown.
pub(super) fn of_commit(result: Result<(), Failure>, trouble: Option<String>, id: &str) -> Result<(), TransactError> {
    match (result, trouble) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(trouble)) => Err(TransactError::Unknown { reason: format!("committed, but meanwhile: {trouble}") }),
        (Err(failure), _) if failure.code.is_some_and(is_fenced) => Err(TransactError::Fenced { id: id.to_owned() }),
        (Err(failure), None) if failure.abortable => Err(TransactError::Aborted { reason: failure.reason }),
        (Err(failure), None) => Err(TransactError::Unknown { reason: failure.reason }),
        (Err(failure), Some(trouble)) => Err(TransactError::Unknown { reason: format!("{}; {trouble}", failure.reason) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, abortable: bool) -> Failure {
        Failure { code: Some(code), abortable, reason: "said".into() }
    }

    fn commit(result: Result<(), Failure>, trouble: Option<&str>) -> Result<(), TransactError> {
        of_commit(result, trouble.map(str::to_owned), "id")
    }

    #[test]
    fn a_commit_with_trouble_is_unknown_even_if_it_ends_well() {
        assert!(commit(Ok(()), None).is_ok());
        assert!(matches!(commit(Ok(()), Some("REQTMOUT")), Err(TransactError::Unknown { .. })));
    }

    #[test]
    fn only_a_refusal_without_trouble_is_an_abort() {
        assert!(matches!(commit(Err(failure(Code::InvalidTransactionalState, true)), None), Err(TransactError::Aborted { .. })));
        assert!(matches!(commit(Err(failure(Code::InvalidTransactionalState, true)), Some("FAIL")), Err(TransactError::Unknown { .. })));
        assert!(matches!(commit(Err(failure(Code::OperationTimedOut, false)), None), Err(TransactError::Unknown { .. })));
    }

    #[test]
    fn a_lost_seat_in_the_group_fences_like_a_lost_transactional_id() {
        for code in [Code::IllegalGeneration, Code::UnknownMemberId, Code::ProducerFenced, Code::InvalidProducerEpoch, Code::Fenced] {
            assert!(matches!(failure(code, true).before_commit("id"), TransactError::Fenced { .. }), "{code:?}");
            assert!(matches!(commit(Err(failure(code, false)), Some("FAIL")), Err(TransactError::Fenced { .. })), "{code:?}");
        }
        assert!(matches!(failure(Code::OperationTimedOut, false).before_commit("id"), TransactError::Aborted { .. }));
    }
}
