//! A connection that sends and reads at the same time, as a client of some manner does, and checks what comes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use medusa_tests::Response;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::{set_socket_linger, set_socket_recv_buffer_size},
};

use crate::{catalogue::Ask, random::Random};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a client behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// Where the bytes of all requests together are cut into pieces, each sent for itself.
    pub(crate) cuts: Vec<usize>,
    /// The longest pause after a piece.
    pub(crate) pause_us_max: usize,
    /// How much is read at once, with a pause after each.
    pub(crate) sip_bytes_max: Option<usize>,
    /// The client ends its half behind the last request.
    pub(crate) ends_half: bool,
    /// The client goes when so many bytes have come, or sooner.
    pub(crate) leaves_after: Option<usize>,
}

pub(crate) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    has_ended: bool,
}

impl Wire {
    /// Connects, with a buffer for input of so many bytes, or the usual one for 0.
    pub(crate) fn connect(address: SocketAddr, buffer_bytes: usize) -> std::io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        if buffer_bytes > 0 {
            set_socket_recv_buffer_size(&stream, buffer_bytes)?;
        }
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Wire { stream, unread: Vec::new(), has_ended: false })
    }

    /// Asks for all of these in one go, and checks the answers. Answers how many bytes of bodies came.
    pub(crate) fn ask(
        &mut self,
        asks: &[&Ask],
        manner: &Manner,
        random: &mut Random,
    ) -> Result<u64, String> {
        let output: Vec<u8> = asks.iter().flat_map(|ask| &ask.bytes).copied().collect();
        let mut cuts = manner.cuts.iter().copied().filter(|cut| *cut < output.len());
        let (mut sent, mut done, mut received, mut body_bytes) = (0, 0, 0, 0);
        let mut cut = cuts.next().unwrap_or(output.len());
        let mut moved_at = Instant::now();
        let wrong = |done: usize, sent: usize, what: String| {
            let name = asks.get(done).map_or("nothing", |ask| &ask.name);
            Err(format!(
                "answer {done} of {} ({name}; {sent} of {} bytes were sent): {what}",
                asks.len(),
                output.len()
            ))
        };
        // An answer may come before the whole request is sent.
        while done < asks.len() || sent < output.len() {
            let mut has_moved = false;
            if sent < output.len() {
                match self.stream.write(&output[sent..cut]) {
                    Ok(count) => {
                        (sent, has_moved) = (sent + count, true);
                        if sent == cut && sent < output.len() {
                            cut = cuts.find(|next| *next > cut).unwrap_or(output.len());
                            sleep(Duration::from_micros(
                                random.below(manner.pause_us_max + 1) as u64
                            ));
                        }
                        if sent == output.len() && manner.ends_half {
                            self.stream
                                .shutdown(std::net::Shutdown::Write)
                                .map_err(|error| error.to_string())?;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return wrong(done, sent, format!("cannot send: {error}")),
                }
            }
            match self.read(manner.sip_bytes_max) {
                Ok(0) => {}
                Ok(count) => (received, has_moved) = (received + count, true),
                Err(error) => return wrong(done, sent, error),
            }
            if manner.leaves_after.is_some_and(|bytes| received >= bytes) {
                return Ok(body_bytes);
            }
            while let Some(ask) = asks.get(done) {
                match Response::parse(&self.unread, self.has_ended, ask.is_head) {
                    Ok(Some((response, length))) => {
                        drop(self.unread.drain(..length));
                        if response.status == 100 {
                            continue;
                        }
                        if let Err(what) = ask.check(&response) {
                            return wrong(done, sent, what);
                        }
                        body_bytes += response.body.len() as u64;
                        done += 1;
                    }
                    Ok(None) => break,
                    Err(broken) => return wrong(done, sent, broken.to_string()),
                }
            }
            if has_moved {
                moved_at = Instant::now();
            } else if moved_at.elapsed() > PATIENCE {
                return wrong(
                    done,
                    sent,
                    format!("nothing comes behind {} bytes", self.unread.len()),
                );
            } else {
                self.wait(sent < output.len());
            }
        }
        match self.unread.len() {
            0 => Ok(body_bytes),
            count => wrong(done, sent, format!("{count} bytes too much")),
        }
    }

    /// The server ends the connection, and nothing comes before.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while !self.has_ended {
            if self.read(None)? > 0 {
                return Err("something comes behind the last answer".into());
            }
            if started.elapsed() > PATIENCE {
                return Err("the server does not close".into());
            }
            if !self.has_ended {
                self.wait(false);
            }
        }
        Ok(())
    }

    /// Goes with a reset.
    pub(crate) fn reset(self) {
        let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
    }

    fn read(&mut self, sip_bytes_max: Option<usize>) -> Result<usize, String> {
        let mut bytes = [0; 64 * 1024];
        let bytes_max = sip_bytes_max.unwrap_or(bytes.len()).min(bytes.len());
        match self.stream.read(&mut bytes[..bytes_max]) {
            Ok(0) => {
                self.has_ended = true;
                Ok(0)
            }
            Ok(count) => {
                self.unread.extend_from_slice(&bytes[..count]);
                if sip_bytes_max.is_some() {
                    sleep(Duration::from_micros(200));
                }
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(format!("cannot read behind {} bytes: {error}", self.unread.len())),
        }
    }

    /// Waits for something to happen, for a moment.
    fn wait(&self, has_output: bool) {
        let flags = if has_output { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let moment = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&self.stream, flags)], Some(&moment));
    }
}
