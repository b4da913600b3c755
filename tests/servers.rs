//! The servers of the tests themselves.

use std::process::Command;
use std::time::Duration;

use crate::support::{Kafka, Mongo, kafka, mongo, wait_until};

#[test]
fn the_shared_servers_start_once() {
    assert_eq!(kafka().bootstrap_servers, kafka().bootstrap_servers);
    assert_eq!(mongo().uri, mongo().uri);
}

#[test]
fn a_server_ends_with_whoever_started_it_even_when_frozen() {
    let (kafka, mongo) = (Kafka::start(), Mongo::start());
    let pids = [kafka.pid(), mongo.pid()];
    kafka.signal("STOP");
    mongo.signal("STOP");
    drop((kafka, mongo));
    for pid in pids {
        wait_until("the server is gone", Duration::from_secs(10), || {
            let there = Command::new("kill").args(["-0", &pid.to_string()]).output().expect("kill is there").status.success();
            (!there).then_some(())
        });
    }
}
