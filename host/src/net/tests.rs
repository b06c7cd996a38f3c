//! Sockets over real connections, on a loop of their own.

use std::{
    fs,
    future::{Future, poll_fn},
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    process::Command,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{io::ReadBuf, runtime::Builder, time::timeout};

use crate::{
    config::Limits,
    net::{
        address::Address,
        connection::{Connection, NO_LISTENER},
        connections::{ConnectionStatus, Connections, Owner, Quota, State},
        entry::Entry,
        listener::{Accepting, Listener},
        resolve::{LookupError, Resolver},
        stream::{Resting, Stream},
    },
    sys::blocking::{self, Blocking, Busy},
};

fn on_loop<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        timeout(Duration::from_secs(20), work).await.expect("it takes too long")
    })
}

fn owner(instance: &str) -> Rc<Owner> {
    Rc::new(Owner { instance: instance.into(), generation: 1, traffic: Rc::default() })
}

fn at_most(connections_max: u64) -> Connections {
    Connections::new(&Limits { connections_max, ..Limits::default() })
}

fn quota(max: usize) -> Rc<Quota> {
    Quota::new("connections_per_instance_max", max)
}

fn listen(address: &Address) -> Listener {
    Listener::bind(address, 0).unwrap()
}

fn any_port() -> Address {
    Address::Tcp("127.0.0.1:0".parse().unwrap())
}

fn port_of(listener: &Listener) -> SocketAddr {
    match listener.address() {
        Address::Tcp(address) => *address,
        Address::Unix(_) => panic!("not TCP"),
    }
}

fn poll_accept(
    listener: &Listener,
    connections: &Connections,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Connection>> {
    let (quota, owner) = (quota(10), owner("echo"));
    listener.poll_accept(cx, Accepting { connections, quota: &quota, owner: &owner, index: 3 })
}

async fn accept(listener: &Listener, connections: &Connections) -> Connection {
    poll_fn(|cx| poll_accept(listener, connections, cx)).await.unwrap()
}

async fn read(connection: &Connection) -> io::Result<Vec<u8>> {
    let mut bytes = [0; 64 * 1024];
    let mut buffer = ReadBuf::new(&mut bytes);
    poll_fn(|cx| connection.poll_read(cx, &mut buffer)).await?;
    Ok(buffer.filled().to_vec())
}

async fn write(connection: &Connection, bytes: &[u8], more: bool) -> io::Result<usize> {
    poll_fn(|cx| connection.poll_write_vectored(cx, &[IoSlice::new(bytes)], more)).await
}

/// A connection with the host's side first.
async fn pair(connections: &Connections) -> (Connection, TcpStream) {
    let listener = listen(&any_port());
    let peer = TcpStream::connect(port_of(&listener)).unwrap();
    (accept(&listener, connections).await, peer)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

#[test]
fn bytes_pass_and_are_counted() {
    on_loop(async {
        let connections = at_most(10);
        connections.set_id_last(41);
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(b"hello").unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"hello");
        let pieces = [IoSlice::new(b"how"), IoSlice::new(b""), IoSlice::new(b" do")];
        let count = poll_fn(|cx| connection.poll_write_vectored(cx, &pieces, true)).await.unwrap();
        assert_eq!(count, 6);
        poll_fn(|cx| connection.poll_flush(cx)).await.unwrap();
        let mut heard = [0; 6];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"how do");

        let info = connection.info();
        assert_eq!((info.id, info.listener, info.remote.family), (42, 3, 4));
        assert_eq!(info.remote.port, peer.local_addr().unwrap().port());
        assert_eq!(info.local.port, peer.peer_addr().unwrap().port());
        let [shown] = &connections.list()[..] else { panic!("one connection") };
        assert_eq!((shown.id, shown.bytes_in, shown.bytes_out), (42, 5, 6));
        assert_eq!((shown.owner.clone(), shown.state), (owner("echo"), State::Open));
        drop(connection);
        assert!(connections.list().is_empty());
        assert_eq!(connections.quota().used(), 0);
        assert_eq!(peer.read(&mut heard).unwrap(), 0);
    });
}

/// Which is what saves the two calls of epoll, and the memory, for connections that are answered at once.
#[test]
fn a_connection_enters_the_reactor_only_to_wait() {
    let is_outside =
        |connection: &Connection| matches!(&*connection.entry.stream(), Stream::Resting(_));
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(b"hello").unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"hello");
        assert_eq!(write(&connection, b"hello", false).await.unwrap(), 5);
        poll_fn(|cx| connection.poll_shutdown(cx)).await.unwrap();
        assert!(is_outside(&connection));
        let waiting = read(&connection);
        let mut waiting = std::pin::pin!(waiting);
        assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
        assert!(!is_outside(&connection));
        peer.write_all(b"on").unwrap();
        assert_eq!(waiting.await.unwrap(), b"on");

        // Somebody who never has to wait must not keep the loop.
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(&[7; 1000]).unwrap();
        let reading = tokio::task::spawn_local(async move {
            let mut byte = [0];
            for _ in 0..1000 {
                let mut byte = ReadBuf::new(&mut byte);
                poll_fn(|cx| connection.poll_read(cx, &mut byte)).await.unwrap();
            }
            assert!(!is_outside(&connection));
        });
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        reading.await.unwrap();
    });
}

#[test]
fn a_client_that_is_to_speak_first_is_accepted_when_it_does_or_after_a_while() {
    on_loop(async {
        let connections = at_most(10);
        let listener = listen(&any_port());
        listener.set_deferred(true);
        let _silent = TcpStream::connect(port_of(&listener)).unwrap();
        let mut peer = TcpStream::connect(port_of(&listener)).unwrap();
        let none = timeout(Duration::from_millis(200), accept(&listener, &connections)).await;
        assert!(none.is_err());
        peer.write_all(b"hello").unwrap();
        let spoken = accept(&listener, &connections).await;
        assert_eq!(read(&spoken).await.unwrap(), b"hello");
        accept(&listener, &connections).await;

        listener.set_deferred(false);
        let _silent = TcpStream::connect(port_of(&listener)).unwrap();
        let at_once = timeout(Duration::from_millis(500), accept(&listener, &connections)).await;
        assert!(at_once.is_ok());
    });
}

#[test]
fn a_long_table_is_read_in_parts_while_others_come_and_go() {
    on_loop(async {
        let connections = at_most(100);
        let mut held = Vec::new();
        for _ in 0..9 {
            held.push(pair(&connections).await);
        }
        assert_eq!(connections.count(), 9);
        let (first, next) = connections.part(0, 4);
        let ids = |part: &[ConnectionStatus]| part.iter().map(|it| it.id).collect::<Vec<_>>();
        assert_eq!(ids(&first), [1, 2, 3, 4]);
        // One of the places behind becomes free, one before is taken by a newcomer.
        drop(held.remove(6));
        drop(held.remove(1));
        held.push(pair(&connections).await);
        held.push(pair(&connections).await);
        let (mut seen, mut next) = (Vec::new(), next);
        while let Some(from) = next {
            let (part, then) = connections.part(from, 4);
            seen.extend(ids(&part));
            next = then;
        }
        seen.retain(|id| *id <= 9);
        assert_eq!(seen, [5, 6, 8, 9]);
        assert_eq!(connections.find(8).map(|it| it.id), Some(8));
        assert!(connections.find(7).is_none());
        let idle = connections.find(8).and_then(|it| it.idle);
        assert!(idle.is_some_and(|idle| idle <= held[0].0.entry.age()), "{idle:?}");
        let mut owners = 0;
        connections.each_owner(|_, listener| owners += listener);
        assert_eq!(owners, 3 * 9);
    });
}

#[test]
fn all_who_wait_to_write_are_woken() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        let connection = Rc::new(connection);
        let sent = 4 * 1024 * 1024_usize;
        let writers: Vec<_> = [b'a', b'b', b'c']
            .map(|byte| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    let mut left = sent;
                    let piece = vec![byte; 64 * 1024];
                    while left > 0 {
                        let piece = [IoSlice::new(&piece[..left.min(piece.len())])];
                        let write = |cx: &mut Context<'_>| {
                            connection.poll_write_vectored(cx, &piece, false)
                        };
                        left -= poll_fn(write).await.unwrap();
                    }
                })
            })
            .into();
        let reader = std::thread::spawn(move || peer.read_exact(&mut vec![0; 3 * sent]));
        for writer in writers {
            writer.await.unwrap();
        }
        reader.join().unwrap().unwrap();
    });
}

/// Megabytes for each peer that does not read were the kernel's memory, and a millisecond each of the loop's time.
#[test]
fn little_is_taken_for_a_peer_that_does_not_read() {
    on_loop(async {
        let connections = at_most(10);
        let listener = listen(&any_port());
        let peer =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        peer.set_recv_buffer_size(4096).unwrap();
        peer.connect(&port_of(&listener).into()).unwrap();
        let connection = accept(&listener, &connections).await;
        let (piece, mut taken) = (vec![0; 16 * 1024], 0);
        poll_fn(|cx| {
            while let Poll::Ready(count) =
                connection.poll_write_vectored(cx, &[IoSlice::new(&piece)], false)
            {
                taken += count.unwrap();
            }
            Poll::Ready(())
        })
        .await;
        assert!((4096..=256 * 1024).contains(&taken), "{taken}");
    });
}

#[test]
fn the_end_of_input_is_no_hangup() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        peer.shutdown(Shutdown::Write).unwrap();
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"");
        let now = poll_fn(|cx| Poll::Ready(connection.poll_hangup(cx))).await;
        assert!(now.is_pending());
        write(&connection, b"still here", false).await.unwrap();
        let mut heard = [0; 10];
        peer.read_exact(&mut heard).unwrap();
        // A close with unread bytes is a reset.
        write(&connection, b"unread", false).await.unwrap();
        peer.peek(&mut heard).unwrap();
        drop(peer);
        poll_fn(|cx| connection.poll_hangup(cx)).await.unwrap();
        poll_fn(|cx| connection.poll_hangup(cx)).await.unwrap();
    });
}

#[test]
fn readable_means_that_something_is_there() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(b"x").unwrap();
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        poll_fn(|cx| connection.poll_read(cx, &mut buffer)).await.unwrap();
        // The reactor still thinks that there is more, for the buffer was filled.
        assert!(poll_fn(|cx| Poll::Ready(connection.poll_readable(cx))).await.is_pending());
        peer.write_all(b"y").unwrap();
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"y");
    });
}

#[test]
fn a_kill_wakes_everybody_and_cancels() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        let connection = Rc::new(connection);
        let reader = connection.clone();
        let reader = tokio::task::spawn_local(async move { read(&reader).await });
        let watcher = connection.clone();
        let watcher =
            tokio::task::spawn_local(async move { poll_fn(|cx| watcher.poll_hangup(cx)).await });
        tokio::task::yield_now().await;
        assert!(!connections.kill(connection.id() + 1));
        assert!(connections.kill(connection.id()));
        // What woke them may come as an end of input first; every later call is cancelled.
        let _ = reader.await.unwrap();
        let _ = watcher.await.unwrap();
        assert_eq!(errno(read(&connection).await), Errno::CANCELED);
        assert_eq!(errno(write(&connection, b"x", false).await), Errno::CANCELED);
        assert_eq!(errno(poll_fn(|cx| connection.poll_hangup(cx)).await), Errno::CANCELED);
        assert!(connection.is_killed());
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn an_abort_is_a_reset() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        let connection = Rc::new(connection);
        let reader = connection.clone();
        let reader = tokio::task::spawn_local(async move { read(&reader).await });
        tokio::task::yield_now().await;
        connection.abort();
        assert!(!matches!(reader.await.unwrap(), Ok(bytes) if !bytes.is_empty()));
        assert_eq!(errno(read(&connection).await), Errno::CONNABORTED);
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_connection_too_many_to_linger_is_closed_at_once() {
    on_loop(async {
        let limits = Limits { lingering_connections_max: 0, ..Limits::default() };
        let connections = Connections::new(&limits);
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(&[0; 1000]).unwrap();
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        drop(connection);
        assert!(connections.list().is_empty());
    });
}

#[test]
fn what_was_written_arrives_although_input_was_left_unread() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, mut peer) = pair(&connections).await;
        peer.write_all(&[0; 1000]).unwrap();
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap();
        write(&connection, b"answer", false).await.unwrap();
        drop(connection);
        assert_eq!(connections.list()[0].state, State::Closing);
        let (heard, _) = tokio::join!(
            async {
                let peer = std::thread::spawn(move || {
                    let mut heard = Vec::new();
                    let result = peer.read_to_end(&mut heard);
                    (heard, result.is_ok(), peer)
                });
                while !peer.is_finished() {
                    tokio::task::yield_now().await;
                }
                peer.join().unwrap()
            },
            tokio::task::yield_now()
        );
        assert_eq!((heard.0.as_slice(), heard.1), (b"answer".as_slice(), true));
        drop(heard.2);
        while !connections.list().is_empty() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_file_is_sent() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, peer) = pair(&connections).await;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            (&peer).read_to_end(&mut heard).unwrap();
            heard
        });
        write(&connection, b"head", true).await.unwrap();
        // The first step is warmed on another thread.
        let warm = |offset, length| {
            assert_eq!(length, 1 << 20);
            (offset == 0)
                .then(|| blocking::run(&Threads, || ()).map_err(io::Error::from))
                .transpose()
        };
        let mut offset = 0;
        loop {
            let sent = poll_fn(|cx| {
                connection.poll_send_file(cx, file.as_fd(), offset, u64::MAX, |length| {
                    warm(offset, length)
                })
            })
            .await;
            match sent.unwrap() {
                0 => break,
                count => offset += count as u64,
            }
        }
        poll_fn(|cx| connection.poll_shutdown(cx)).await.unwrap();
        let heard = reader.join().unwrap();
        assert_eq!(&heard[..4], b"head");
        assert!(heard[4..] == bytes);
        assert_eq!(errno(write(&connection, b"x", false).await), Errno::PIPE);
    });
}

#[test]
fn as_many_as_may_be_are_accepted_and_the_rest_waits() {
    on_loop(async {
        let connections = at_most(2);
        let listener = listen(&any_port());
        let peers: Vec<_> =
            (0..3).map(|_| TcpStream::connect(port_of(&listener)).unwrap()).collect();
        let first = accept(&listener, &connections).await;
        let _second = accept(&listener, &connections).await;
        assert!(
            poll_fn(|cx| Poll::Ready(poll_accept(&listener, &connections, cx))).await.is_pending()
        );
        let refused = connections.place(&quota(1)).unwrap_err();
        assert!(refused.to_string().contains("connections_max"), "{refused}");
        assert!(connections.place(&quota(0)).is_err());
        let table = connections.clone();
        let waiting = tokio::task::spawn_local(async move { accept(&listener, &table).await });
        tokio::task::yield_now().await;
        drop(first);
        waiting.await.unwrap();
        drop(peers);
    });
}

#[test]
fn who_waits_for_room_is_forgotten_with_the_listener() {
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    on_loop(async {
        let connections = at_most(0);
        let listener = listen(&any_port());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        // Each time by another waker, as by a plugin's own.
        for _ in 0..10 {
            let waker = Waker::from(Arc::new(Count(AtomicUsize::new(0))));
            assert!(
                poll_accept(&listener, &connections, &mut Context::from_waker(&waker)).is_pending()
            );
        }
        let waker = Waker::from(count.clone());
        assert!(
            poll_accept(&listener, &connections, &mut Context::from_waker(&waker)).is_pending()
        );
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 2);
        connections.quota().set_max(1);
        assert_eq!((count.0.load(Ordering::Relaxed), Arc::strong_count(&count)), (1, 1));

        connections.quota().set_max(0);
        let waker = Waker::from(count.clone());
        assert!(
            poll_accept(&listener, &connections, &mut Context::from_waker(&waker)).is_pending()
        );
        drop((waker, listener));
        assert_eq!(Arc::strong_count(&count), 1);
    });
}

#[test]
fn a_connection_goes_out() {
    on_loop(async {
        let connections = at_most(10);
        let listener = listen(&any_port());
        let address = listener.address().clone();
        let connect = |address: &Address, from: Option<&str>| {
            let place = connections.place(&quota(5)).unwrap();
            Connection::connect(
                place,
                address,
                from.map(|from| from.parse().unwrap()),
                owner("proxy"),
            )
        };
        let out = connect(&address, Some("127.0.0.1:0")).unwrap();
        assert_eq!(out.state(), State::Connecting);
        assert_eq!(errno(read(&out).await), Errno::NOTCONN);
        poll_fn(|cx| out.poll_connected(cx)).await.unwrap();
        assert_eq!(out.state(), State::Open);
        let into = accept(&listener, &connections).await;
        assert_eq!(*out.local(), into.remote());
        assert_eq!(out.info().listener, NO_LISTENER);
        write(&out, b"hello", false).await.unwrap();
        assert_eq!(read(&into).await.unwrap(), b"hello");
        drop(listener);

        let refused = connect(&address, None).unwrap();
        assert_eq!(errno(poll_fn(|cx| refused.poll_connected(cx)).await), Errno::CONNREFUSED);
        assert_eq!(errno(poll_fn(|cx| refused.poll_connected(cx)).await), Errno::NOTCONN);
        assert_eq!(errno(connect(&address, Some("[::1]:0"))), Errno::INVAL);
    });
}

#[test]
fn a_unix_socket_serves_and_cleans_up() {
    on_loop(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // A socket file that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let connections = at_most(10);
        let listener = listen(&Address::Unix(path.clone()));
        let mut peer = UnixStream::connect(&path).unwrap();
        let connection = accept(&listener, &connections).await;
        assert_eq!(connection.info().remote.family, 1);
        peer.write_all(b"hello").unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"hello");
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&connection).await.unwrap(), b"");
        assert!(poll_fn(|cx| Poll::Ready(connection.poll_hangup(cx))).await.is_pending());
        drop(peer);
        poll_fn(|cx| connection.poll_hangup(cx)).await.unwrap();
        // Whoever looks whether it is stale connects for a moment.
        let error = Listener::bind(&Address::Unix(path.clone()), 0).unwrap_err();
        assert!(error.to_string().contains("something listens there already"), "{error}");
        drop(listener);
        assert!(!path.exists());

        fs::write(&path, "not a socket").unwrap();
        assert!(Listener::bind(&Address::Unix(path.clone()), 0).is_err());
        assert!(path.exists());
    });
}

#[test]
fn both_families_have_the_same_port() {
    on_loop(async {
        let any = listen(&Address::Tcp("0.0.0.0:0".parse().unwrap()));
        let port = port_of(&any).port();
        let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else { return };
        drop(probe);
        listen(&Address::Tcp(format!("[::]:{port}").parse().unwrap()));
    });
}

#[test]
fn options_are_set() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, _peer) = pair(&connections).await;
        let tcp = socket2::SockRef::from(&connection.entry.stream().as_fd()).tcp_nodelay();
        assert!(tcp.unwrap(), "inherited from the listener");
        connection.set_option(1, 0).unwrap();
        connection.set_option(2, 1).unwrap();
        assert_eq!(errno(connection.set_option(2, 2)), Errno::INVAL);
        assert_eq!(errno(connection.set_option(9, 1)), Errno::INVAL);
    });
}

/// Runs in a process of its own, for the limit is the process's.
#[test]
fn accepting_pauses_when_descriptors_run_out() {
    const CHILD: &str = "MEDUSA_TEST_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let this = std::env::current_exe().unwrap();
        let child = Command::new(this)
            .args(["--exact", "net::tests::accepting_pauses_when_descriptors_run_out"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    on_loop(async {
        let connections = at_most(100);
        let listener = listen(&any_port());
        let peer = TcpStream::connect(port_of(&listener)).unwrap();
        let hold: Vec<_> = {
            let limits = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limits).unwrap();
            std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect()
        };
        let mut polls = 0;
        let mut accepted = std::pin::pin!(poll_fn(|cx| {
            polls += 1;
            poll_accept(&listener, &connections, cx)
        }));
        assert!(timeout(Duration::from_millis(350), &mut accepted).await.is_err());
        drop(hold);
        accepted.await.unwrap();
        assert!((3..=10).contains(&polls), "{polls} polls");
        drop(peer);
    });
}

struct Threads;

impl Blocking for Threads {
    fn start(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), Busy> {
        std::thread::spawn(job);
        Ok(())
    }
}

struct Never(std::cell::RefCell<Vec<Box<dyn FnOnce() + Send>>>);

impl Blocking for Never {
    fn start(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), Busy> {
        self.0.borrow_mut().push(job);
        Ok(())
    }
}

#[test]
fn names_are_looked_up() {
    on_loop(async {
        let resolver = Resolver::new(Rc::new(Threads), 2);
        let mut found = Vec::new();
        for host in ["localhost", "127.0.0.1", "::1"] {
            let lookup = resolver.lookup(host, 80).unwrap();
            poll_fn(|cx| lookup.poll(cx).map_ok(|addresses| found.push(addresses[0])))
                .await
                .unwrap();
        }
        assert!(found[0].ip().is_loopback() && found[0].port() == 80);
        assert_eq!(found[2], "[::1]:80".parse().unwrap());
        for bad in ["", "a\0b", &"x".repeat(300)] {
            assert_eq!(resolver.lookup(bad, 1).unwrap_err(), LookupError::Name);
        }
        let nothing = resolver.lookup("no-such-name.invalid", 80).unwrap();
        poll_fn(|cx| nothing.poll(cx).map_ok(|_| ())).await.unwrap_err();
    });
}

#[test]
fn lookups_are_bounded_and_given_up() {
    let pool = Rc::new(Never(std::cell::RefCell::default()));
    let resolver = Resolver::new(pool.clone(), 2);
    let first = resolver.lookup("a.invalid", 80).unwrap();
    let _second = resolver.lookup("b.invalid", 80).unwrap();
    assert_eq!(resolver.lookup("c.invalid", 80).unwrap_err(), LookupError::TooMany);
    // Given up, it still counts until the pool has looked at it, which takes no time.
    drop(first);
    assert_eq!(resolver.lookup("c.invalid", 80).unwrap_err(), LookupError::TooMany);
    let job = pool.0.borrow_mut().remove(0);
    job();
    assert!(resolver.lookup("c.invalid", 80).is_ok());
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The reactor was to wake it, and knew the socket no more.
#[test]
fn who_waits_to_write_to_a_connection_that_is_parked_asks_again() {
    on_loop(async {
        let connections = at_most(10);
        let (connection, _peer) = pair(&connections).await;
        let count = Arc::new(Count(0.into()));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let piece = [7; 64 * 1024];
        let pieces = [IoSlice::new(&piece)];
        while connection.poll_write_vectored(&mut cx, &pieces, false).is_ready() {}
        drop(connection.rest().unwrap());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    });
}

/// What looked at it panicked, the monitor's `connections` and `kill` too.
#[test]
fn a_socket_that_the_reactor_refuses_is_over_and_can_be_looked_at() {
    on_loop(async {
        let connections = at_most(10);
        // A regular file is what no reactor takes.
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/proc/self/exe")
            .unwrap();
        let socket = Stream::Resting(Resting::Tcp(OwnedFd::from(file).into()));
        let place = connections.place(&quota(1)).unwrap();
        let entry = Entry::new(socket, any_port(), None, 0, State::Open, owner("echo"), place);
        let connection = Connection::new(entry);
        poll_fn(|cx| connection.poll_readable(cx)).await.unwrap_err();
        assert_eq!(errno(read(&connection).await), Errno::CONNABORTED);
        assert_eq!(connections.list().len(), 1);
        assert!(connections.kill(connection.id()));
        connection.abort();
        drop(connection);
        assert!(connections.list().is_empty());
    });
}
