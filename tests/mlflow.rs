//! `config check --connect` and MLflow: a yes for one that can be used, a no that says why for anything else.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::support::mlflow;
use crate::support::mlflow::Mlflow;
use crate::support::wait_until;

/// Checks an MLflow; returns the exit code and what is said of it.
fn check(uri: &str) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemark"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().stdin(Stdio::null());
    command.args(["config", "check", "--connect", "--output", "json"]).env("MLFLOW_TRACKING_URI", uri);
    let output = command.output().expect("the program is built");
    let said: Value = serde_json::from_slice(&output.stdout).expect("it answers in JSON");
    (output.status.code().expect("it ended by itself"), said["servers"][2].clone())
}

/// Answers every request with the same bytes.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What was asked does not matter; that it has been read keeps the connection from being reset.
            let _asked = stream.read(&mut [0; 4096]);
            let _sent = stream.write_all(answer);
        }
    });
    uri
}

#[track_caller]
fn refuses(uri: &str, words: &str) {
    let (code, said) = check(uri);
    assert_eq!((code, &said["server"], &said["ok"]), (4, &Value::from("MLflow"), &Value::from(false)), "{said}");
    let found = said["steps"][0]["found"].as_str().unwrap();
    assert!(found.contains(words), "{found}");
    assert!(!said.to_string().contains("hunter2"), "{said}");
}

#[test]
fn an_mlflow_that_can_be_used_is_good() {
    let (code, said) = check(&mlflow().uri);
    assert_eq!((code, &said["ok"]), (0, &Value::from(true)), "{said}");
    assert_eq!(said["steps"][0]["found"], "can be read", "{said}");
}

#[test]
fn an_mlflow_that_is_not_there_is_bad() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    refuses(&format!("http://joe:hunter2@{nobody}"), "is it up?");
}

#[test]
fn an_mlflow_that_wants_a_password_is_bad_and_the_answer_says_where_one_goes() {
    let uri = impostor(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    refuses(&uri, "check MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD");
    refuses(&uri.replace("http://", "http://joe:hunter2@"), "answered 401 Unauthorized");
}

#[test]
fn what_is_no_mlflow_is_bad() {
    let page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 11\r\nconnection: close\r\n\r\n<h1>Hi</h1>";
    refuses(&impostor(page), "\"<h1>Hi</h1>\", which is no list of experiments");
    let json = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\nconnection: close\r\n\r\n{\"status\":\"OK\"";
    refuses(&impostor(json), "no list of experiments");
    let other = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{\"status\":\"OK\"}";
    refuses(&impostor(other), "no list of experiments");
    refuses(&impostor(b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"), "answered 302 Found");
    refuses(&impostor(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"), "answered 404 Not Found");
    refuses(&impostor(b"SSH-2.0-OpenSSH_9.2\r\n"), "is it up?");
}

#[test]
fn an_mlflow_ends_with_whoever_started_it_and_so_do_its_workers() {
    let mlflow = Mlflow::start();
    let group = format!("-{}", mlflow.pid());
    drop(mlflow);
    wait_until("every process of the group is gone", std::time::Duration::from_secs(10), || {
        let there = Command::new("kill").args(["-0", "--", &group]).output().expect("kill is there").status.success();
        (!there).then_some(())
    });
}
