//! Which heads are read at once. What is read is held to httparse and to cuts by the other tests.

use super::std::format;

use super::super::{Head, PIECE, Stream, Window};

/// Whether the head that `bytes` begin with is read at once.
fn is_ordinary(stream: Stream, bytes: &[u8]) -> bool {
    let mut window = Window::default();
    window.extend(bytes);
    let mut head = Head::default();
    if !head.begin(&stream, &window) {
        return false;
    }
    let _ = (0..Head::TURNS).any(|index| head.turn(&window, index));
    head.end != 0
}

#[test]
fn ordinary_heads_are_read_at_once() {
    let path = "p".repeat(PIECE - "GET / HTTP/1.1\r\n\r\n".len());
    for (request, at_once) in [
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nHost: a\r\nAccept: */*\r\n\r\n", true),
        ("POST / HTTP/1.1\r\ncontent-LENGTH: 65535\r\n\r\nbody", true),
        (
            "POST / HTTP/1.1\r\nContent-Type: a/b\r\nContent-Length: 0\r\n\r\n",
            true,
        ),
        (&format!("GET /{path} HTTP/1.1\r\n\r\n"), true),
        // It is longer than a window.
        (&format!("GET /p{path} HTTP/1.1\r\n\r\n"), false),
        ("GET / HTTP/1.1\r\n\r", false),
        ("GET / HTTP/1.1\nHost: a\n\n", false),
        ("GET /\r\n\r\n", false),
        ("BREW / HTTP/1.1\r\n\r\n", false),
        ("\r\nGET / HTTP/1.1\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nContent-Length: 655360\r\n\r\n", false),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            false,
        ),
        ("POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\n", false),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
        ),
        ("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nA:\n\nB: c\r\n\r\n", false),
    ] {
        assert_eq!(
            is_ordinary(Stream::requests(), request.as_bytes()),
            at_once,
            "{request:?}"
        );
    }
    for (response, at_once) in [
        (
            "HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 3\r\nETag: \"b\"\r\n\r\nabc",
            true,
        ),
        ("HTTP/1.0 404 Not Found\r\n\r\n", true),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            false,
        ),
        ("HTTP/1.1 099 None\r\n\r\n", false),
        ("ICY 200 OK\r\n\r\n", false),
    ] {
        assert_eq!(
            is_ordinary(Stream::responses(), response.as_bytes()),
            at_once,
            "{response:?}"
        );
    }
}
