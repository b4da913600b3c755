//! MongoDB over TLS, with users.

use std::process::Command;
use std::time::Duration;

use super::{ends, failures, tidemark};
use crate::support::guarded_mongo::{GuardedMongo, Impostor, PASSWORD};
use crate::support::{Deployment, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const READS: [(&str, &[&str]); 2] = [("", &["listCollections"]), ("execution_tickets", &["find", "changeStream"])];

fn command(uri: &str, arguments: &[&str]) -> Command {
    let mut command = tidemark(arguments);
    command.env("MONGODB_URI", uri).env("MONGODB_DATABASE", "strangers");
    command
}

const CREATE: [&str; 7] = ["baseline", "create", "--dry-run", "--from", "2013-01-01", "--to", "2013-02-01"];

#[test]
fn without_the_right_proof_a_person_is_told_what_to_do_soon_and_the_server_is_left_in_peace() {
    let mongo = GuardedMongo::start();
    mongo.make_user("reader", "strangers", &READS, &[]);
    let good = mongo.uri(Some("reader"));
    let said = ends(&mut command(&good, &["config", "check", "--connect"]), 0, PASSWORD);
    assert!(said.contains("change stream: ok"), "{said}");

    let [elsewhere, expired] = ["elsewhere", "expired"].map(|name| Impostor::start(&mongo.certificates, name));
    let stranger = good.replace("ca.crt", "stranger.crt");
    let no_tls = good.split("&tls=").next().unwrap();
    let cases = [
        ("a wrong password", good.replace(PASSWORD, "hunter2-wrong"), "password or authSource in mongodb.uri are wrong"),
        ("an unknown user", good.replace("reader", "nobody"), "password or authSource in mongodb.uri are wrong"),
        ("no credentials", mongo.uri(None), "put a user and a password into mongodb.uri"),
        ("another authority", stranger.clone(), "name that one's file as tlsCAFile"),
        ("a certificate of another host", good.replace(&mongo.address, &elsewhere.address), "is for another host"),
        ("an expired certificate", good.replace(&mongo.address, &expired.address), "has to be renewed"),
        ("no TLS", no_tls.to_owned(), "tls=true"),
        ("no such file", good.replace("ca.crt", "nowhere.crt"), "nowhere.crt"),
    ];
    let before = mongo.connections();
    std::thread::scope(|scope| {
        for (case, uri, expected) in &cases {
            scope.spawn(move || {
                for (arguments, code) in [(&["config", "check", "--connect"][..], 4), (&CREATE, 4)] {
                    let said = ends(&mut command(uri, arguments), code, "hunter2");
                    assert!(failures(&said).contains(expected), "{case}, {arguments:?}: {}", failures(&said));
                }
            });
        }
    });
    // Each command looks for a server for five seconds at most, twice a second.
    assert!(mongo.connections() - before < i64::try_from(cases.len()).unwrap() * 2 * 20, "{} connections", mongo.connections() - before);

    // A stage that cannot prove itself ends at once; one that does not trust the server goes on asking, now and then.
    let mut deployment = Deployment::new("strangers-mongo", 1);
    deployment.set("MONGODB_URI", &cases[0].1);
    let output = deployment.output(&["run", "--stages", "tail", "--set", "http.listen="]);
    let said = super::both(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(cases[0].2) && !said.contains("hunter2"), "{said}");
    deployment.set("MONGODB_URI", &stranger);
    let tail = deployment.start("one", &["run", "--stages", "tail"]);
    wait_until("tail says why it waits", LIMIT, || tail.says("tail").contains(cases[3].2).then_some(()));
    let before = mongo.connections();
    std::thread::sleep(Duration::from_secs(10));
    let more = mongo.connections() - before;
    assert!(more < 50, "{more} connections in ten seconds");
    assert!(!tail.last_words().contains(PASSWORD), "{}", tail.last_words());
    tail.stop();
}

#[test]
fn a_certificate_is_a_user_and_a_missing_privilege_is_named() {
    let mongo = GuardedMongo::start();
    mongo.make_user("blind", "strangers", &READS[..1], &[]);
    mongo.make_user("deaf", "strangers", &[READS[0], ("execution_tickets", &["find"])], &[]);
    for (user, expected) in [("blind", "it takes find"), ("deaf", "it takes changeStream and find")] {
        let said = failures(&ends(&mut command(&mongo.uri(Some(user)), &["config", "check", "--connect"]), 4, PASSWORD));
        assert!(said.contains(expected), "{user}: {said}");
    }
    let mut deployment = Deployment::new("strangers-deaf", 1);
    deployment.set("MONGODB_DATABASE", "strangers");
    deployment.set("MONGODB_URI", &mongo.uri(Some("deaf")));
    let output = deployment.output(&["run", "--stages", "tail", "--set", "http.listen="]);
    assert_eq!(output.status.code(), Some(4), "{}", super::both(&output));
    assert!(super::both(&output).contains("find, changeStream and listCollections"), "{}", super::both(&output));

    mongo.ask("$external", bson::doc! { "createUser": "CN=tidemark", "roles": [{ "role": "read", "db": "strangers" }] });
    let client = mongo.certificates.path("client.pem");
    let uri = format!("{}&authMechanism=MONGODB-X509&tlsCertificateKeyFile={client}", mongo.uri(None));
    ends(&mut command(&uri, &["config", "check", "--connect"]), 0, PASSWORD);
}
