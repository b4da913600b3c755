//! Kafka over TLS, with SCRAM or certificates.

use std::process::Command;

use super::{ends, failures, tidemark};
use crate::support::guarded_kafka::{GuardedKafka, LEAST, OPERATOR, PASSWORD};

/// Somebody at a listener: what is in `kafka.properties`, as variables of the environment.
struct Visitor<'k> {
    servers: &'k str,
    properties: Vec<(&'static str, String)>,
}

impl<'k> Visitor<'k> {
    /// With a user and the password, over TLS.
    fn user(kafka: &'k GuardedKafka, servers: &'k str, user: &str) -> Self {
        let properties = vec![
            ("SECURITY_PROTOCOL", "SASL_SSL".to_owned()),
            ("SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
            ("SASL_USERNAME", user.to_owned()),
            ("SASL_PASSWORD", PASSWORD.to_owned()),
            ("SSL_CA_LOCATION", kafka.certificates.path("ca.crt")),
        ];
        Self { servers, properties }
    }

    /// With a certificate.
    fn certificate(kafka: &'k GuardedKafka, name: &str) -> Self {
        let properties = vec![
            ("SECURITY_PROTOCOL", "SSL".to_owned()),
            ("SSL_CA_LOCATION", kafka.certificates.path("ca.crt")),
            ("SSL_CERTIFICATE_LOCATION", kafka.certificates.path(&format!("{name}.crt"))),
            ("SSL_KEY_LOCATION", kafka.certificates.path(&format!("{name}.key"))),
        ];
        Self { servers: &kafka.mutual, properties }
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self = self.without(name);
        self.properties.push((name, value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.properties.retain(|(theirs, _)| *theirs != name);
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidemark(arguments);
        let properties = self.properties.iter().map(|(name, value)| (format!("TIDEMARK_KAFKA_PROPERTIES_{name}"), value));
        command.env("KAFKA_BOOTSTRAP_SERVERS", self.servers).envs(properties);
        command
    }
}

#[test]
fn with_the_right_proof_topics_are_made_written_and_read() {
    let kafka = GuardedKafka::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
    let from_a_file = Visitor::user(&kafka, &kafka.scram, OPERATOR).without("SASL_PASSWORD");
    for visitor in [
        Visitor::user(&kafka, &kafka.scram, OPERATOR),
        from_a_file.with("SASL_PASSWORD_FILE", &file.path().display().to_string()),
        Visitor::certificate(&kafka, "client"),
    ] {
        let said = ends(&mut visitor.command(&["config", "check", "--connect"]), 0, PASSWORD);
        assert!(said.contains("transactions: ok"), "{said}");
        let said = ends(&mut visitor.command(&["test-alert"]), 0, PASSWORD);
        assert!(said.contains("a read_committed consumer saw it"), "{said}");
    }
    assert_eq!(kafka.failed_authentications(), 0);
}

#[test]
fn without_it_a_person_is_told_what_to_do_soon_and_the_broker_is_left_in_peace() {
    let kafka = GuardedKafka::start();
    let user = |servers| Visitor::user(&kafka, servers, OPERATOR);
    let stranger = kafka.certificates.path("stranger.crt");
    let cases = [
        ("a wrong password", user(&kafka.scram).with("SASL_PASSWORD", "hunter2-wrong"), "are sasl.username and sasl.password"),
        ("an unknown user", user(&kafka.scram).with("SASL_USERNAME", "nobody"), "are sasl.username and sasl.password"),
        ("no credentials", user(&kafka.scram).without("SASL_USERNAME").without("SASL_PASSWORD"), "sasl.username"),
        ("another authority", user(&kafka.scram).with("SSL_CA_LOCATION", &stranger), "ssl.ca.location"),
        ("a certificate of another host", user(&kafka.elsewhere), "is it for the host that is named here?"),
        ("an expired certificate", user(&kafka.expired), "has that one not expired"),
        ("no certificate", Visitor::user(&kafka, &kafka.mutual, OPERATOR).with("SECURITY_PROTOCOL", "SSL"), "certificate"),
        ("a certificate of another authority", Visitor::certificate(&kafka, "stranger"), "certificate"),
        ("a certificate of ours that has expired", Visitor::certificate(&kafka, "expired"), "certificate"),
        ("no TLS", Visitor { servers: &kafka.scram, properties: vec![] }, "security.protocol"),
    ];
    std::thread::scope(|scope| {
        for (case, visitor, expected) in &cases {
            scope.spawn(move || {
                for arguments in [&["config", "check", "--connect"][..], &["test-alert"], &["run", "--stages", "watch"]] {
                    let failed = failures(&ends(&mut visitor.command(arguments), 4, "hunter2"));
                    assert!(failed.contains(expected), "{case}, {arguments:?}: {failed}");
                    assert!(failed.contains(visitor.servers) || arguments[0] == "config", "{case}, {arguments:?}: {failed}");
                }
            });
        }
    });
    // Three commands, each for five seconds at most, four times a second.
    let most = cases.len() * 3 * 20;
    assert!(kafka.failed_authentications() < most, "{} connections that failed", kafka.failed_authentications());
}

#[test]
fn without_its_privileges_a_user_is_told_which() {
    let kafka = GuardedKafka::start();
    let user = Visitor::user(&kafka, &kafka.scram, LEAST);
    let check = ["config", "check", "--connect", "--topic-prefix", "mine"];
    let alert = ["test-alert", "--topic-prefix", "mine"];
    let said = failures(&ends(&mut user.command(&check), 4, PASSWORD));
    assert!(said.contains("grant Write and Describe on transactional ids mine.*"), "{said}");
    kafka.grant(&[
        ("transactional_id", "mine.", "write"),
        ("group", "mine.", "read"),
        ("topic", "mine.", "read"),
        ("topic", "mine.", "write"),
    ]);
    let said = failures(&ends(&mut user.command(&alert), 4, PASSWORD));
    assert!(said.contains("allow it to create topics, or create this one for it"), "{said}");
    kafka.grant(&[("topic", "mine.", "create")]);
    ends(&mut user.command(&alert), 0, PASSWORD);
    let said = failures(&ends(&mut user.command(&alert), 4, PASSWORD));
    assert!(said.contains("DescribeConfigs"), "{said}");
    kafka.grant(&[("topic", "mine.", "describe_configs")]);
    ends(&mut user.command(&alert), 0, PASSWORD);
    ends(&mut user.command(&check), 0, PASSWORD);
    // What is another's stays another's.
    ends(&mut user.command(&["test-alert", "--topic-prefix", "theirs"]), 4, PASSWORD);
}
