//! Tests of the arguments of calls: read, counted, kept on the disk, written anew.

use super::*;
use crate::wire::budget::Budget;
use futures_util::TryStreamExt as _;
use serde_json::json;

async fn read(query: &str, content_type: &str, body: &str) -> Result<Arguments, ReasonCode> {
    read_in(query, content_type, body.as_bytes(), 7, None).await
}

async fn read_in(query: &str, content_type: &str, body: &[u8], step: usize, spool: Option<Spool>) -> Result<Arguments, ReasonCode> {
    if media_type(content_type) != "multipart/form-data" {
        return Arguments::read(Some(query), content_type, body);
    }
    let mut held = Budget::new(8 * 1024 * 1024, 2 * 1024 * 1024).hold(None);
    let pieces: Vec<_> = body.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let keep = Keep::new(&mut held, 256 * 1024, spool);
    Arguments::read_parts(Some(query), content_type, futures_util::stream::iter(pieces), keep).await
}

async fn bytes(payload: Payload) -> Vec<u8> {
    payload.into_pieces().try_collect::<Vec<_>>().await.unwrap().concat()
}

const FORM: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=XX";
/// As slack_sdk writes it: with an empty line before the first part.
const PARTS: &str = "\r\n--XX\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n-100\r\n--XX\r\nContent-Disposition: form-data; \
    name=\"document\"; filename=\"a\u{f6}.txt\"\r\nContent-Type: text/plain\r\n\r\nline\r\n--X\r\n--XX--\r\n";

#[tokio::test]
async fn each_form_is_read_and_written_anew() {
    let json = read("a=1", "application/json; charset=utf-8", r#"{"chat_id": -1001234567890123, "x": null, "o": {"p": 1}}"#).await.unwrap();
    assert_eq!(json.text("chat_id"), Ok(Some("-1001234567890123".into())));
    assert_eq!((json.text("x"), json.text("a")), (Ok(None), Ok(Some("1".into()))));
    assert_eq!(json.object("o").unwrap().unwrap()["p"], json!(1));
    let written = json.write("B").unwrap();
    assert_eq!(
        (written.query.as_str(), serde_json::from_slice::<Value>(written.body.whole()).unwrap()["o"]["p"].clone()),
        ("a=1", json!(1))
    );

    let mut form = read("", FORM, "token=agt&text=gr%C3%BC%C3%9Fe+a%26b&o=%7B%22p%22%3A1%7D").await.unwrap();
    assert_eq!(form.object("o").unwrap().unwrap()["p"], json!(1));
    form.remove("token");
    assert_eq!(form.write("B").unwrap().body.whole(), b"text=gr%C3%BC%C3%9Fe+a%26b&o=%7B%22p%22%3A1%7D");

    let parts = read("", MULTIPART, PARTS).await.unwrap();
    assert_eq!(parts.text("chat_id"), Ok(Some("-100".into())));
    assert_eq!(parts.text("document"), Err(ReasonCode::EgressMessageInvalid), "a file is no text");
    let written = parts.write("YY").unwrap();
    let again = read_in("", &written.media_type.unwrap(), &bytes(written.body).await, 5, None).await.unwrap();
    assert_eq!(again, parts);
    let Body::Multipart(parts) = again.body else { panic!() };
    assert_eq!(parts[1].content, Piece::Bytes(Bytes::from_static(b"line\r\n--X")));
    assert_eq!(parts[1].file_name.as_deref(), Some("a\u{f6}.txt"));
    assert_eq!(read("", FORM, "").await.unwrap().body, Body::Empty);
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let twice = PARTS.replace("name=\"document\"; filename=\"a\u{f6}.txt\"", "name=\"chat_id\"");
    for (query, form, body) in [
        ("chat_id=1", "application/json", r#"{"chat_id": 2}"#),
        ("chat_id=1", FORM, "chat_id=2"),
        ("", FORM, "chat_id=1&chat_id=1"),
        ("", MULTIPART, twice.as_str()),
        ("", "application/json", r#"{"chat_id": {"a": 1}}"#),
        ("", "application/json", r#"{"chat_id": 1.5}"#),
    ] {
        assert_eq!(read(query, form, body).await.unwrap().text("chat_id"), Err(ReasonCode::EgressMessageInvalid), "{query} {body}");
    }
    for (query, form, body) in [
        ("", "application/json", r#"{"chat_id": 1, "chat_id": 2}"#),
        ("", "application/json", "[1]"),
        ("", "text/plain", "chat_id=1"),
        ("", "", "chat_id=1"),
        ("channel.id=1", FORM, ""),
        ("", FORM, "channel%5B%5D=C1"),
        ("", FORM, "cha%20nnel=C1"),
        ("", FORM, "a=%FF"),
        ("", "multipart/form-data", PARTS),
        ("", "multipart/form-data; boundary=ZZ", PARTS),
        ("", MULTIPART, "--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--\r\n"),
    ] {
        assert!(read(query, form, body).await.is_err(), "{query} {form} {body}");
    }
}

fn file(name: &str, size: usize) -> String {
    format!("--XX\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n{}\r\n", "f".repeat(size))
}

#[tokio::test]
async fn large_files_lie_on_the_disk_and_leave_as_they_came_with_the_arguments_around_them() {
    let disk = Budget::new(8 * 1024 * 1024, 2 * 1024 * 1024);
    let text = "--XX\r\ncontent-disposition: form-data; name=\"chat_id\"\r\n\r\n-100\r\n";
    let body = format!("{}{}{text}{}--XX--\r\nbehind", file("one", 300_000), file("small", 10), file("two", 100_000));
    for step in [1_000, 30_000, 1_000_000] {
        let spool = Spool::new(&disk, "a");
        let read = read_in("", MULTIPART, body.as_bytes(), step, Some(spool)).await.unwrap();
        assert_eq!(read.text("chat_id"), Ok(Some("-100".into())));
        assert_eq!(read.spooled().iter().map(|s| s.length()).collect::<Vec<_>>(), [300_000, 100_000], "{step}");
        assert_eq!(read.text("one"), Err(ReasonCode::EgressMessageInvalid), "a file is no text");
        let written = read.write("XX").unwrap();
        assert_eq!(written.body.length(), bytes(written.body.clone()).await.len() as u64);
        assert_eq!(String::from_utf8(bytes(written.body).await).unwrap(), body.trim_end_matches("behind"));
    }
    assert_eq!(disk.left(), 8 * 1024 * 1024, "what was read is gone, and its room is there again");
}

#[tokio::test]
async fn what_is_too_much_ends_the_reading_where_it_is() {
    let too_large = Err(ReasonCode::IngressBodyTooLarge);
    assert_eq!(read("", MULTIPART, &format!("{}--XX--\r\n", file("f", 300_000))).await.map(|_| ()), too_large, "no disk for it");
    let text = format!("--XX\r\ncontent-disposition: form-data; name=\"t\"\r\n\r\n{}", "t".repeat(300_000));
    let disk = Budget::new(8 * 1024 * 1024, 2 * 1024 * 1024);
    assert_eq!(read_in("", MULTIPART, text.as_bytes(), 1_000, Some(Spool::new(&disk, "a"))).await.map(|_| ()), too_large, "a text");
    assert_eq!(disk.left(), 8 * 1024 * 1024);
    // Each of these would be sought through from its beginning with every piece that comes.
    for endless in ["x".repeat(100_000), format!("--XX\r\nx: {}", "x".repeat(100_000))] {
        let mut left = 0;
        let pieces = endless.as_bytes().chunks(1_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let counted = futures_util::stream::iter(pieces.inspect(|_| left += 1));
        let mut held = Budget::new(1024 * 1024, 0).hold(None);
        let keep = Keep::new(&mut held, 64 * 1024, None);
        assert_eq!(Arguments::read_parts(None, MULTIPART, counted, keep).await, Err(ReasonCode::EgressMessageInvalid));
        assert!(left < 20, "{left} pieces were read");
    }
    let fields = vec!["a"; FIELDS_MAX + 1];
    assert!(read("", FORM, &fields[1..].join("&")).await.is_ok());
    assert_eq!(read("", FORM, &fields.join("&")).await, Err(ReasonCode::EgressMessageInvalid));
    assert_eq!(read("b=1", FORM, &fields[1..].join("&")).await, Err(ReasonCode::EgressMessageInvalid), "query and body together");
    let numbers = format!("{{\"a\":[{}]}}", vec!["1"; json::VALUES_MAX].join(","));
    assert_eq!(read("", "application/json", &numbers).await, Err(ReasonCode::EgressMessageInvalid));
    assert_eq!(read("", "application/json", r#"{"a":[1,2,{"b":null}]}"#).await.unwrap().weight(), 5 * VALUE_BYTES);
}

#[tokio::test]
async fn a_form_of_too_many_fields_is_not_read_to_its_end() {
    // Behind the last field that is read stands what no reader accepts: it is not looked at.
    let mut form = "a&".repeat(FIELDS_MAX);
    form.push_str("a&%FF");
    let mut read = 0;
    let counted = form_urlencoded::parse(form.as_bytes()).inspect(|_| read += 1);
    assert!(collected(counted, FIELDS_MAX).is_err());
    assert_eq!(read, FIELDS_MAX + 1);
}

#[tokio::test]
async fn a_number_stays_the_same_number() {
    let number = format!("{}{}978336093.5", "9".repeat(14), "4".repeat(81));
    let read_once = read("", "application/json", &format!("{{\"a\": [0.1, 1e-7, {number}]}}")).await.unwrap();
    let Body::Json(fields) = &read_once.body else { panic!() };
    assert_eq!(fields["a"][2].as_f64(), number.parse().ok());
    let written = read_once.write("B").unwrap();
    assert_eq!(Arguments::read(None, &written.media_type.unwrap(), written.body.whole()).unwrap(), read_once);
}

#[tokio::test]
async fn a_file_s_name_ends_no_header() {
    let part = Part {
        name: "f".into(),
        file_name: Some("a\"; x=\"\r\nevil: 1\\".into()),
        media_type: Some("text/plain\r\nx: y".into()),
        content: Piece::Bytes(Bytes::from_static(b"b")),
    };
    let said = String::from_utf8(bytes(multipart(&[part], "B")).await).unwrap();
    assert_eq!(said, "--B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a%22; x=%22evil: 1%5C\"\r\n\r\nb\r\n--B--\r\n");
}
