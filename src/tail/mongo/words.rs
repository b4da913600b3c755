//! What the driver's errors say, without what nobody should read, and what to do about them.

use mongodb::error::{Error, ErrorKind};

use super::super::source::SourceError;

/// Unauthorized: without a user, or without the privilege.
const UNAUTHORIZED: i32 = 13;
/// Wrong user or password, of MongoDB itself and of Atlas.
const WRONG_PASSWORD: [i32; 2] = [18, 8_000];

const LOG_IN: &str = "put a user and a password into mongodb.uri (mongodb://user:password@host/?authSource=admin)";
const WHO: &str = "user, password or authSource in mongodb.uri are wrong";

/// What a failed connection says, and what to do about it. The first that is found counts.
const CONNECTIONS: [(&str, &str); 8] = [
    (
        "UnknownIssuer",
        "the server's certificate is not of an authority that is known here: name that one's file as tlsCAFile in mongodb.uri",
    ),
    ("not valid for name", "the server's certificate is for another host: connect by a name that it has, or have it issued for this one"),
    ("certificate expired", "the server's certificate has to be renewed"),
    ("not valid yet", "the server's certificate is of the future: look at the clocks"),
    ("alert: CertificateRequired", "the server asks for a certificate: name its file as tlsCertificateKeyFile in mongodb.uri"),
    ("alert: HandshakeFailure", "the server asks for a certificate: name its file as tlsCertificateKeyFile in mongodb.uri"),
    ("InvalidContentType", "does the server speak TLS at all? Else leave tls=true out of mongodb.uri"),
    ("unexpected end of file", "does the server ask for TLS? Then tls=true belongs in mongodb.uri"),
];

/// Returns what a driver's error says, without the state of the whole topology and without the command that it was about, and what
/// to do about it, where that is known.
#[must_use]
pub fn said(error: &Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::ServerSelection { message, .. } => {
            // `Server selection timeout: No available servers. Topology: {…, Servers: [ { Address: …, Error: … } ]}`
            let why = message.find("Error: ").map(|at| message[at + "Error: ".len()..].trim_end_matches([' ', '}', ']', ',']));
            why.map_or_else(|| "no server answers".to_owned(), |why| format!("no server answers: {}", with_advice(why)))
        }
        ErrorKind::Command(command) => {
            let what = format!("{} ({} {})", without_command(&command.message), command.code, command.code_name);
            match command.code {
                UNAUTHORIZED if lacks_user(&command.message) => format!("{what}; {LOG_IN}"),
                code if WRONG_PASSWORD.contains(&code) => format!("{what}; {WHO}"),
                _ => what,
            }
        }
        ErrorKind::Authentication { message, .. } => format!("{message}; {WHO}"),
        ErrorKind::InvalidTlsConfig { message, .. } => format!("{message}; look at the tls options of mongodb.uri"),
        other => with_advice(&without_command(&other.to_string())),
    }
}

/// Whether a server's refusal means that nobody is logged in.
fn lacks_user(message: &str) -> bool {
    message.contains("requires authentication")
}

fn with_advice(why: &str) -> String {
    // `…, labels: {}, source: None …` tells nothing.
    let why = why.split(", labels: ").next().unwrap_or(why);
    let advice = CONNECTIONS.iter().find(|(found, _)| why.contains(found));
    advice.map_or_else(|| why.to_owned(), |(_, advice)| format!("{why}; {advice}"))
}

/// Returns a refusal without the command that was refused: it may hold what is in a ticket.
fn without_command(message: &str) -> String {
    const COMMAND: &str = "to execute command {";
    let Some((before, command)) = message.split_once(COMMAND) else { return message.to_owned() };
    let name = command.trim_start().split(':').next().unwrap_or_default();
    format!("{before}to execute command {name}")
}

/// Turns a driver's error into what the tail has to do about it.
pub(super) fn failed(doing: &str, error: &Error) -> SourceError {
    let (doing, reason) = (doing.to_owned(), said(error));
    let command = match error.kind.as_ref() {
        ErrorKind::Command(command) => command,
        ErrorKind::Authentication { .. } => return SourceError::Denied { doing, reason },
        ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => {
            return SourceError::Refused { doing, reason: format!("the connection string or an option is wrong ({reason})") };
        }
        _ => return SourceError::Unavailable { doing, reason },
    };
    let advice = match command.code {
        // Whoever knows the server's time puts it in.
        286 | 136 => return SourceError::Forgotten { doing, reason, present: (0, 0) },
        UNAUTHORIZED if !lacks_user(&command.message) => {
            let wants = "the user needs the privileges find, changeStream and listCollections";
            return SourceError::Denied { doing, reason: format!("{reason}; {wants} (README, \"Who may what\")") };
        }
        UNAUTHORIZED => return SourceError::Denied { doing, reason },
        code if WRONG_PASSWORD.contains(&code) => return SourceError::Denied { doing, reason },
        260 | 280 => "the position's resume token is not one of this collection",
        40_573 => "change streams need a replica set",
        47 => "a post-image that is required is missing",
        10_334 => "an event is larger than MongoDB sends, and it is not known which",
        9 | 40_324 | 16_410 | 31_249 | 31_250 | 51_091 => "the spec's paths cannot be asked for",
        _ => return SourceError::Unavailable { doing, reason },
    };
    SourceError::Refused { doing, reason: format!("{advice} ({reason})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_without_the_command_that_was_refused() {
        let refusal = "not authorized on db to execute command { update: \"tickets\", updates: [ { q: { _id: \"secret\" } } ] }";
        assert_eq!(without_command(refusal), "not authorized on db to execute command update");
        assert_eq!(without_command("something else"), "something else");
    }

    #[test]
    fn a_failed_connection_is_said_with_what_to_do() {
        let said = with_advice("Kind: I/O error: invalid peer certificate: UnknownIssuer, labels: {}, source: None");
        assert!(said.starts_with("Kind: I/O error: invalid peer certificate: UnknownIssuer; ") && said.contains("tlsCAFile"), "{said}");
        assert_eq!(with_advice("Kind: I/O error: Connection refused"), "Kind: I/O error: Connection refused");
    }
}
