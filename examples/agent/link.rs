//! The agent's connection to the server: each request and each answer is one line. A lost connection is an
//! `io::Error`.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub(crate) enum Order {
    Job { id: String, text: String },
    Key(u32),
    None,
}

pub(crate) struct Link(BufReader<UnixStream>);

impl Link {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Link(BufReader::new(UnixStream::connect(socket)?)))
    }

    pub(crate) fn hello(&mut self) -> io::Result<(String, i64)> {
        let answer = self.ask("hello")?;
        let (id, time_ms) = answer.split_once(' ').ok_or(ErrorKind::InvalidData)?;
        Ok((id.to_owned(), time_ms.parse().map_err(|_| ErrorKind::InvalidData)?))
    }

    pub(crate) fn anchor(&mut self) -> io::Result<Option<String>> {
        let answer = self.ask("anchor")?;
        Ok((answer != "none").then_some(answer))
    }

    pub(crate) fn keep_anchor(&mut self, anchor: &str) -> io::Result<()> {
        self.tell(&format!("keep {anchor}"))
    }

    pub(crate) fn poll(&mut self) -> io::Result<Order> {
        let answer = self.ask("poll")?;
        let mut words = answer.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("job"), Some(id), Some(text)) => Ok(Order::Job { id: id.to_owned(), text: text.to_owned() }),
            (Some("key"), Some(number), None) => {
                Ok(Order::Key(number.parse().map_err(|_| ErrorKind::InvalidData)?))
            }
            (Some("none"), None, None) => Ok(Order::None),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn accepted(&mut self, id: &str) -> io::Result<()> {
        self.tell(&format!("accepted {id}"))
    }

    pub(crate) fn rekeyed(&mut self, number: u32) -> io::Result<()> {
        self.tell(&format!("rekeyed {number}"))
    }

    pub(crate) fn done(&mut self, id: &str, result: &str) -> io::Result<()> {
        self.tell(&format!("done {id} {result}"))
    }

    pub(crate) fn log(&mut self, event: &str) -> io::Result<()> {
        self.tell(&format!("log {event}"))
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        if self.ask(line)? == "ok" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }

    fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        // A partial line is not an answer.
        Ok(answer.strip_suffix('\n').ok_or(ErrorKind::UnexpectedEof)?.to_owned())
    }
}
