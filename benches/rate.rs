//! Latency at a constant rate. wrk always sends as fast as it is answered, so its latency is only that of saturation.
//!
//! `rate ADDR INSTALLATIONS TEMPLATE RATE SECONDS [CONNECTIONS]`, one JSON line on stdout.
//!
//! Open loop: request n is due at `start + n / RATE` whatever became of the earlier ones, and its latency is counted
//! from that moment, so a server that stalls pays for every request that fell due meanwhile (no coordinated omission).
//! Any free connection takes the next due request. Blocking sockets, one thread each: a sleeping thread wakes within
//! about 60 µs, where tokio's timers round to 1 ms; and unlike a spinning generator it leaves its core to the kernel's disk
//! threads. `late` says how long after its due time a request was written; it is part of the latency.
#![allow(clippy::expect_used)] // a bench program: a wrong start should be loud

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const WARM_UP: Duration = Duration::from_secs(2);
/// How long a server that cannot keep up may still answer what was due.
const GRACE: Duration = Duration::from_secs(5);

struct Installation {
    ingress_id: String,
    mac: Hmac<Sha256>,
    template: String,
}

struct Plan {
    addr: String,
    installations: Vec<Installation>,
    /// Microseconds since the epoch: event ids and message times count up from here, as Slack's do.
    epoch: u64,
    start: Instant,
    interval: Duration,
    requests: u64,
    next: AtomicU64,
}

struct Sample {
    due: Instant,
    sent: Instant,
    done: Instant,
    ok: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, installations, template, rate, seconds, rest @ ..] = args.as_slice() else {
        eprintln!("usage: rate ADDR INSTALLATIONS TEMPLATE RATE SECONDS [CONNECTIONS]");
        std::process::exit(2);
    };
    let rate: u64 = rate.parse().expect("RATE is a number");
    let measured = Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    let connections = rest.first().map_or(64, |n| n.parse().expect("CONNECTIONS is a number"));
    let plan = Plan {
        addr: addr.clone(),
        installations: load(installations, template),
        epoch: u64::try_from(since_epoch().as_micros()).expect("this century"),
        start: Instant::now() + Duration::from_millis(100), // all threads are up by then
        interval: Duration::from_secs(1) / u32::try_from(rate).expect("RATE is sane"),
        requests: rate * (WARM_UP + measured).as_secs(),
        next: AtomicU64::new(0),
    };
    let samples: Vec<Sample> = thread::scope(|scope| {
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(|| drive(&plan))).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker ends")).collect()
    });
    report(&plan, rate, &samples);
}

fn load(installations: &str, template: &str) -> Vec<Installation> {
    let template = std::fs::read_to_string(template).expect("template is readable");
    let rows = std::fs::read_to_string(installations).expect("installations are readable");
    let parse = |row: &str| {
        let mut words = row.split_whitespace();
        let (ingress_id, secret, app, team) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Installation {
            ingress_id: ingress_id.to_owned(),
            mac: Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length"),
            template: template.trim_end().replace("@APP@", app).replace("@TEAM@", team),
        })
    };
    rows.lines().filter_map(parse).collect()
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970")
}

fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GRACE))?;
    Ok(stream)
}

/// One connection: takes the next due request until there is none.
fn drive(plan: &Plan) -> Vec<Sample> {
    let mut stream = connect(&plan.addr).expect("the server accepts connections");
    let (mut samples, mut answer) = (Vec::new(), Vec::new());
    let give_up = plan.start + plan.interval * u32::try_from(plan.requests).expect("requests fit") + GRACE;
    while Instant::now() < give_up {
        let n = plan.next.fetch_add(1, Ordering::Relaxed);
        if n >= plan.requests {
            break;
        }
        let due = plan.start + plan.interval * u32::try_from(n).expect("requests fit");
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let request = request(plan, n);
        let sent = Instant::now();
        let ok = exchange(&mut stream, &request, &mut answer);
        samples.push(Sample { due, sent, done: Instant::now(), ok: matches!(ok, Ok(true)) });
        if ok.is_err() {
            let Ok(fresh) = connect(&plan.addr) else { break };
            stream = fresh;
        }
    }
    samples
}

fn request(plan: &Plan, n: u64) -> Vec<u8> {
    let slot = usize::try_from(n).unwrap_or_default() % plan.installations.len();
    let installation = plan.installations.get(slot).expect("there are installations");
    let id = plan.epoch + n;
    let body = installation
        .template
        .replace("@ID@", &format!("{id:013X}"))
        .replace("@SEC@", &format!("{}", id / 1_000_000))
        .replace("@MICRO@", &format!("{:06}", id % 1_000_000));
    let now = since_epoch().as_secs();
    let mut mac = installation.mac.clone();
    mac.update(format!("v0:{now}:{body}").as_bytes());
    let tag = hex::encode(mac.finalize().into_bytes());
    format!(
        "POST /webhooks/slack/{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Slack-Request-Timestamp: {now}\r\nX-Slack-Signature: v0={tag}\r\n\r\n{body}",
        installation.ingress_id,
        plan.addr,
        body.len()
    )
    .into_bytes()
}

/// Sends one request and reads its whole answer. `Ok(true)` is a 200; an error means that the connection is lost.
fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> io::Result<bool> {
    stream.write_all(request)?;
    answer.clear();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")).map_or(0, |v| v.trim().parse().unwrap_or(0));
            if answer.len() >= end + 4 + length {
                return Ok(head.starts_with("http/1.1 200 "));
            }
        }
    }
}

fn report(plan: &Plan, rate: u64, samples: &[Sample]) {
    let counted = || samples.iter().filter(|s| s.due >= plan.start + WARM_UP);
    let sorted = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times
    };
    let latency = sorted(counted().map(|s| s.done - s.due).collect());
    let late = sorted(counted().map(|s| s.sent.saturating_duration_since(s.due)).collect());
    let ms = |times: &[Duration], percent: usize| {
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(0.0, |d| d.as_secs_f64() * 1e3)
    };
    let ok = samples.iter().filter(|s| s.ok).count();
    println!(
        "{{\"rate\":{rate},\"planned\":{},\"ok\":{ok},\"bad\":{},\"p50\":{:.3},\"p99\":{:.3},\"max\":{:.3},\"late_p50\":{:.3},\"late_p99\":{:.3}}}",
        plan.requests,
        samples.len() - ok,
        ms(&latency, 50),
        ms(&latency, 99),
        ms(&latency, 100),
        ms(&late, 50),
        ms(&late, 99)
    );
}
