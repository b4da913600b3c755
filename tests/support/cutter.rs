//! A proxy that lets requests through and, at a chosen one, lets the server act but swallows the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What happens after the swallowed answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// Nothing gets through any more, as if the client had been killed.
    Dead,
    /// Everything does.
    Alive,
}

/// The proxy. Its thread ends with the tests.
pub(crate) struct Cutter {
    /// `http://host:port`.
    pub(crate) uri: String,
    seen: Arc<AtomicUsize>,
}

impl Cutter {
    /// Swallows the answer of request number `at`, from 0.
    pub(crate) fn start(server: &str, at: usize, afterwards: Afterwards) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let uri = format!("http://{}", listener.local_addr().expect("it is bound"));
        let seen = Arc::new(AtomicUsize::new(0));
        let (counter, server) = (Arc::clone(&seen), server.trim_start_matches("http://").to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { continue };
                let Some(request) = read_request(&client) else { continue };
                let number = counter.fetch_add(1, Ordering::SeqCst);
                if number > at && afterwards == Afterwards::Dead {
                    continue;
                }
                let mut upstream = TcpStream::connect(&server).expect("the server listens");
                upstream.write_all(&request).expect("the server reads");
                let mut answer = Vec::new();
                upstream.read_to_end(&mut answer).expect("the server answers");
                if number != at {
                    drop(client.write_all(&answer));
                }
                drop(client.shutdown(Shutdown::Both));
            }
        });
        Self { uri, seen }
    }

    /// Returns how many requests came.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Reads one request whole, and asks in its name that the connection be closed after the answer.
pub(crate) fn read_request(client: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(client);
    let (mut request, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
        request.extend_from_slice(line.as_bytes());
    }
    request.extend_from_slice(b"connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.extend_from_slice(&body);
    Some(request)
}
