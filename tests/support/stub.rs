//! A server that answers as the test says, in order, and keeps what it was asked.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::cutter::read_request;

/// One answer.
pub(crate) enum Answer {
    /// Status line and headers, and a body.
    Reply(&'static str, Vec<u8>),
    /// A body without end.
    Endless,
    /// Silence: the connection stays open.
    Silence,
}

impl Answer {
    /// A JSON answer with that status.
    pub(crate) fn json(status: &'static str, body: &str) -> Self {
        Self::Reply(status, body.as_bytes().to_vec())
    }
}

/// The server. Its thread ends with the tests.
pub(crate) struct Stub {
    /// `host:port`.
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// Starts it; after the last answer connections are closed unanswered.
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            let mut kept = Vec::new();
            for client in listener.incoming() {
                let Ok(mut client) = client else { continue };
                let Some(request) = read_request(&client) else { continue };
                log.lock().expect("nobody panicked").push(String::from_utf8_lossy(&request).into_owned());
                match answers.next() {
                    Some(Answer::Reply(status, body)) => {
                        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                        drop(client.write_all(head.as_bytes()));
                        drop(client.write_all(&body));
                    }
                    Some(Answer::Endless) => {
                        drop(client.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"));
                        while client.write_all(&[b'x'; 8_192]).is_ok() {}
                    }
                    Some(Answer::Silence) => kept.push(client),
                    None => {}
                }
            }
        });
        Self { address, asked }
    }

    /// Returns the requests so far, head and body.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panicked").clone()
    }
}
