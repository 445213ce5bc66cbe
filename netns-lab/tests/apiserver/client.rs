//! A client as plain as can be: HTTP/1.1 over a TCP stream, one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub(crate) struct Client(pub(crate) SocketAddr);

/// A response whose body is still being read, without its framing.
pub(crate) struct Response {
    pub(crate) code: u16,
    body: BufReader<Body>,
}

struct Body {
    stream: BufReader<TcpStream>,
    chunked: bool,
    left: usize,
}

impl Client {
    pub(crate) fn send(self, method: &str, path: &str, content_type: &str, body: &str) -> Response {
        let accept = "application/json";
        self.send_accepting(method, path, content_type, body, accept)
    }

    pub(crate) fn send_accepting(
        self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &str,
        accept: &str,
    ) -> Response {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = path.replace(' ', "%20");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nAccept: {accept}\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut stream = BufReader::new(stream);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            headers.push(line.trim().to_ascii_lowercase());
        }
        assert!(!headers.is_empty(), "no response to {method} {path}");
        let code = headers[0].split(' ').nth(1).unwrap().parse().unwrap();
        let length = headers
            .iter()
            .find_map(|header| header.strip_prefix("content-length: "));
        let left = length.map_or(0, |length| length.parse().unwrap());
        let chunked = headers
            .iter()
            .any(|header| header == "transfer-encoding: chunked");
        Response {
            code,
            body: BufReader::new(Body {
                stream,
                chunked,
                left,
            }),
        }
    }

    /// Sends these bytes, as many of them as the server takes.
    pub(crate) fn send_raw(self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that has seen enough hangs up.
        drop(stream.write_all(request.as_bytes()));
        stream
    }

    /// The first line of the answer to these bytes.
    pub(crate) fn first_line(self, request: &str) -> String {
        let mut line = String::new();
        BufReader::new(self.send_raw(request))
            .read_line(&mut line)
            .unwrap();
        line
    }

    pub(crate) fn json(self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, path, "application/json", &body).finish()
    }

    pub(crate) fn get(self, path: &str) -> (u16, Value) {
        self.json("GET", path, &Value::Null)
    }

    pub(crate) fn patch(self, path: &str, kind: &str, patch: &Value) -> (u16, Value) {
        let content_type = format!("application/{kind}-patch+json");
        self.send("PATCH", path, &content_type, &patch.to_string())
            .finish()
    }

    pub(crate) fn watch(self, path: &str) -> Response {
        let response = self.send("GET", path, "", "");
        assert_eq!(response.code, 200);
        response
    }
}

impl Response {
    /// The whole body as JSON.
    pub(crate) fn finish(mut self) -> (u16, Value) {
        let mut body = String::new();
        self.body.read_to_string(&mut body).unwrap();
        (
            self.code,
            serde_json::from_str(&body).unwrap_or(Value::String(body)),
        )
    }

    /// The next watch event; `None` at the stream's end.
    pub(crate) fn event(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.body.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(error) => panic!("no event within {PATIENCE:?}: {error}"),
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) fn told(&mut self) -> String {
        let event = self.event().expect("the watch ended");
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }

    /// Whether the connection ends, cleanly or not, before anything else arrives.
    pub(crate) fn breaks_off(&mut self) -> bool {
        match self.body.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Whether nothing arrives for this long.
    pub(crate) fn silent_for(&mut self, time: Duration) -> bool {
        let stream = self.body.get_ref().stream.get_ref().try_clone().unwrap();
        stream.set_read_timeout(Some(time)).unwrap();
        let silent = self.body.fill_buf().is_err();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

impl Body {
    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunked && self.left == 0 {
            let mut size = self.line()?;
            if size.is_empty() {
                // The line that ends the chunk before; at the stream's end there is no other.
                size = self.line()?;
            }
            self.left = usize::from_str_radix(&size, 16).unwrap_or(0);
        }
        let most = buffer.len().min(self.left);
        let read = self.stream.read(&mut buffer[..most])?;
        self.left -= read;
        Ok(read)
    }
}
