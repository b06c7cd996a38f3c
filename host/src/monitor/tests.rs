//! Sessions: what goes wrong at the edge between client and host.

use tokio::{io::AsyncBufReadExt, sync::Notify};

use super::{fake::*, *};

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_session_asks_again_and_again_even_before_the_answer() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let mut talk = bench.talk().await;
        talk.send("kill 1").await;
        talk.send("kill 2").await;
        assert_eq!((talk.answer().await.1, talk.answer().await.1), (0, 0));
        assert_eq!(*bench.fake.done.borrow(), ["kill 1", "kill 2"]);
    })
    .await;
}

#[tokio::test]
async fn half_a_line_is_waited_for_and_a_byte_at_a_time_is_read() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let (mut talk, mut other) = (bench.talk().await, bench.talk().await);
        for byte in b"{\"v\":1,\"command\":[\"kill\",\"5\"]}" {
            talk.send_raw(&[*byte]).await;
            assert_eq!(other.ask("status").await.1, 0);
        }
        talk.send_raw(b"\n").await;
        assert_eq!(talk.answer().await.1, 0);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_request_is_told_so_and_the_session_goes_on() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let mut talk = bench.talk().await;
        for line in ["plugins\n", "\n", "{}\n", "\u{0}\n", "{\"v\":7,\"command\":[]}\n"] {
            talk.send_raw(line.as_bytes()).await;
            let (text, exit) = talk.answer().await;
            assert!(exit == 2 && !text.is_empty(), "{line:?}: {text}");
        }
        assert_eq!(talk.ask("status").await.1, 0);
    })
    .await;
}

#[tokio::test]
async fn an_over_long_line_is_refused_unrun_and_ends_the_session() {
    with_monitor(
        Fake::default(),
        limits(|limits| limits.monitor_line_bytes_max = 300),
        |bench| async move {
            let mut talk = bench.talk().await;
            talk.send(&format!("unload {}", "x".repeat(300))).await;
            let (text, exit) = talk.answer().await;
            assert!(exit == 2 && text.contains("monitor_line_bytes_max"), "{text}");
            assert_eq!(talk.reply().await, None);
            assert!(bench.fake.done.borrow().is_empty());
        },
    )
    .await;
}

#[tokio::test]
async fn one_session_too_many_is_told_so() {
    with_monitor(
        Fake::default(),
        limits(|limits| limits.monitor_sessions_max = 2),
        |bench| async move {
            let (mut one, mut two) = (bench.talk().await, bench.talk().await);
            assert_eq!((one.ask("status").await.1, two.ask("status").await.1), (0, 0));
            let mut three = bench.talk().await;
            let (text, exit) = three.answer().await;
            assert!(exit == 1 && text.contains("monitor_sessions_max"), "{text}");
            drop(one);
            // The host learns of the end of a session at its next turn.
            while bench.talk().await.ask_lenient("status").await != Some(0) {}
        },
    )
    .await;
}

#[tokio::test]
async fn a_long_command_stops_nobody_and_goes_on_when_its_client_leaves() {
    with_monitor(
        Fake { gate: Some(Notify::new()), ..Fake::default() },
        Limits::default(),
        |bench| async move {
            let mut talk = bench.talk().await;
            talk.send("load site").await;
            bench.until_done("load site begins").await;
            assert_eq!(bench.talk().await.ask("status").await.1, 0);
            drop(talk);
            assert_eq!(bench.talk().await.ask("kill 1").await.1, 0);
            bench.fake.gate.as_ref().unwrap().notify_one();
            bench.until_done("load site /etc/plugins/http-files.so [] None").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_only_its_own_command() {
    let fake = Fake::default();
    fake.instances.set(20_000);
    let limits = limits(|limits| {
        (limits.monitor_output_bytes_max, limits.monitor_write_ms_max) = (1 << 14, 100)
    });
    with_monitor(fake, limits, |bench| async move {
        let mut lazy = bench.talk().await;
        lazy.send("plugins --json").await;
        assert_eq!(bench.talk().await.ask("status").await.1, 0);
        let (text, exit) = bench.talk().await.ask("plugins --json").await;
        assert_eq!(
            (exit, serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().len()),
            (0, 20_000)
        );
    })
    .await;
}

#[tokio::test]
async fn a_client_that_only_stops_sending_still_gets_its_answer() {
    use tokio::io::AsyncWriteExt;
    with_monitor(
        Fake { gate: Some(Notify::new()), ..Fake::default() },
        Limits::default(),
        |bench| async move {
            let mut talk = bench.talk().await;
            talk.send("load site").await;
            talk.stream.get_mut().shutdown().await.unwrap();
            bench.until_done("load site begins").await;
            bench.fake.gate.as_ref().unwrap().notify_one();
            assert_eq!(talk.answer().await.1, 0);
        },
    )
    .await;
}

#[tokio::test]
async fn following_the_log_ends_with_its_client() {
    with_monitor(
        Fake::default(),
        limits(|limits| limits.monitor_sessions_max = 1),
        |bench| async move {
            let mut talk = bench.talk().await;
            talk.send("log follow").await;
            drop(talk);
            while bench.talk().await.ask_lenient("status").await != Some(0) {}
        },
    )
    .await;
}

#[tokio::test]
async fn lines_that_a_slow_reader_lost_are_json_for_who_asked_for_json() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let mut talk = bench.talk().await;
        talk.send("log follow --json").await;
        // This log keeps one line, and nothing is told before the command has begun.
        loop {
            ["one", "two", "three"].iter().for_each(|line| bench.log.note(line));
            if timeout(Duration::from_millis(1), talk.stream.fill_buf()).await.is_ok() {
                break;
            }
        }
        let mut told = String::new();
        while told.lines().count() < 2 {
            let Some(Reply::Out(text)) = talk.reply().await else { panic!("{told}") };
            told += &text;
        }
        let values: Vec<serde_json::Value> =
            told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(values[0]["lost"].as_u64().is_some_and(|lost| lost >= 2), "{told}");
        assert_eq!(values[1], "three");
    })
    .await;
}

#[tokio::test]
async fn a_fault_of_a_command_is_an_answer() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let mut talk = bench.talk().await;
        let (text, exit) = talk.ask("connections").await;
        assert!(exit == 1 && text.contains("a fault of the host"), "{text}");
        assert_eq!(talk.ask("status").await.1, 0);
    })
    .await;
}

#[tokio::test]
async fn the_command_that_stops_the_host_is_answered() {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let mut talk = bench.talk().await;
        let (text, exit) = talk.ask("shutdown").await;
        assert!(exit == 0 && text.contains("draining"), "{text}");
        assert_eq!(talk.reply().await, None);
    })
    .await;
}
