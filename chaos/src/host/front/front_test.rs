//! Links that are cut and mended, with real connections.

use super::*;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

/// More than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Silence of so long is taken for a cut.
const SILENCE: Duration = Duration::from_millis(300);

/// A server that sends back what it gets, behind a front of host 1.
fn echo(fronts: &mut Fronts, dir: &Path) -> SocketAddr {
    let server = TcpListener::bind("127.77.1.1:0").expect("a port");
    let behind = server.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut client in server.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut reader = client.try_clone().expect("a handle");
                // It ends with the test, however that ends.
                let _end = std::io::copy(&mut reader, &mut client);
            });
        }
    });
    let any: SocketAddr = "127.77.0.1:0".parse().expect("an address");
    fronts.open(1, dir, Service::Postgres, any, behind).expect("a front")
}

fn asks(stream: &mut TcpStream, patience: Duration) -> std::io::Result<String> {
    stream.write_all(b"hello")?;
    answers(stream, patience)
}

fn answers(stream: &mut TcpStream, patience: Duration) -> std::io::Result<String> {
    stream.set_read_timeout(Some(patience))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn silent<T: std::fmt::Debug>(answer: std::io::Result<T>) -> bool {
    answer.is_err_and(|error| [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()))
}

#[test]
fn what_a_cut_connection_carries_arrives_when_it_is_mended() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut fronts = Fronts::default();
    let front = echo(&mut fronts, dir.path());
    let mut stream = TcpStream::connect(front).expect("connects");
    assert_eq!(asks(&mut stream, LIMIT).expect("an answer"), "hello");

    let there = Link::from_to(&[End::Operator], &[End::Host(1)]);
    let back = Link::from_to(&[End::Host(1)], &[End::Operator]);
    for links in [there, back] {
        let cut = fronts.trouble(&links, Trouble::Cut).expect("can be cut");
        assert!(silent(asks(&mut stream, SILENCE)), "an answer over a link that is cut");
        let mut other = TcpStream::connect(front).expect("the kernel accepts it");
        assert!(silent(asks(&mut other, SILENCE)), "an answer over a new connection");
        fronts.mend(cut);
        assert_eq!(answers(&mut stream, LIMIT).expect("the late answer"), "hello");
        assert_eq!(answers(&mut other, LIMIT).expect("the late answer"), "hello");
    }

    let other_service =
        fronts.trouble(&Link::between(&[End::Operator], &[End::Host(1)]), Trouble::CutService(Service::Pgvigil));
    assert_eq!(asks(&mut stream, LIMIT).expect("PostgreSQL's links are whole"), "hello");
    fronts.mend(other_service.expect("can be cut"));
    assert!(fronts.trouble(&Link::between(&[End::Operator], &[End::Host(1)]), Trouble::Loss(3)).is_none());

    drop(fronts);
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0, "its front is gone");
}

#[test]
fn a_front_refuses_while_its_server_does_and_is_silent_while_it_is_cut_off() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut fronts = Fronts::default();
    let server = TcpListener::bind("127.77.1.4:0").expect("a port");
    let behind = server.local_addr().expect("an address");
    let any: SocketAddr = "127.77.0.4:0".parse().expect("an address");
    let front = fronts.open(4, dir.path(), Service::Postgres, any, behind).expect("a front");
    let refuses = || TcpStream::connect(front).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    let eventually = |what: &str, condition: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < LIMIT, "never came true: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    TcpStream::connect(front).expect("its server listens");
    drop(server);
    eventually("refused", &refuses);
    let cut = fronts.trouble(&Link::between(&[End::Operator], &[End::Host(4)]), Trouble::Cut).expect("can be cut");
    eventually("silent", &|| !refuses());
    fronts.mend(cut);
    eventually("refused again", &refuses);
    let _server = TcpListener::bind(behind).expect("its port");
    eventually("accepted", &|| !refuses());
}

/// A process of the folder `dir` that says hello and prints what it hears, then all that follows.
fn caller(dir: &Path, front: SocketAddr) -> std::process::Child {
    let script = format!("exec 3<>/dev/tcp/{}/{}; printf hello >&3; exec cat <&3", front.ip(), front.port());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(dir).stdout(Stdio::piped()).spawn().expect("bash can be started")
}

#[test]
fn whoever_connects_is_known_by_its_folder() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut fronts = Fronts::default();
    let front = echo(&mut fronts, one.path());
    fronts.gates.host(2, two.path().to_owned());
    let cut = fronts.trouble(&Link::between(&[End::Host(2)], &[End::Host(1)]), Trouble::Cut).expect("can be cut");

    let mut cut_off = caller(two.path(), front);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut operator = caller(elsewhere.path(), front);
    let mut heard = [0; 5];
    operator.stdout.as_mut().expect("was asked for").read_exact(&mut heard).expect("the operator's link is whole");

    let (said, listened) = (Arc::new(AtomicBool::new(false)), cut_off.stdout.take().expect("was asked for"));
    let told = Arc::clone(&said);
    let listener = std::thread::spawn(move || {
        let mut listened = listened;
        let heard = listened.read_exact(&mut [0; 5]);
        told.store(heard.is_ok(), Ordering::Release);
    });
    std::thread::sleep(SILENCE);
    assert!(!said.load(Ordering::Acquire), "host 2 is cut off");
    fronts.mend(cut);
    let began = Instant::now();
    while !said.load(Ordering::Acquire) {
        assert!(began.elapsed() < LIMIT, "host 2 hears nothing after its link was mended");
        std::thread::sleep(Duration::from_millis(5));
    }
    for child in [&mut cut_off, &mut operator] {
        child.kill().expect("can be ended");
        child.wait().expect("is reaped");
    }
    listener.join().expect("ends with its process");
}
