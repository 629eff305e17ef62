extern crate std;

use super::{check_requests, check_responses};
use crate::http::{Method, Unparsed};

#[test]
fn methods_are_told_by_the_first_line() {
    for method in Method::ALL {
        if *method != Method::Other {
            let request = std::format!("{} / HTTP/1.1\r\n\r\n", method.name());
            check_requests(&request, &[*method], None);
        }
    }
    for other in ["M", "get", "PROPFIND", "GETS", "X-!#$%&'*+.^_`|~9"] {
        let request = std::format!("{other} / HTTP/1.0\n\n");
        check_requests(&request, &[Method::Other], None);
    }
}

#[test]
fn what_is_no_http_is_told() {
    for (text, methods) in [
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", &[][..]),
        ("SSH-2.0-OpenSSH_9.2\r\n", &[]),
        (" GET / HTTP/1.1\r\n\r\n", &[]),
        ("GET\r\n\r\n\r\n\r\n", &[]),
        ("*1\r\n$4\r\nPING\r\n", &[]),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH / HTTP/1.1\r\n\r\n", &[]),
        ("GET key\r\n", &[Method::Get]),
        ("GET /abc\n", &[Method::Get]),
        ("GET / HTTP/2.0\r\n\r\n", &[Method::Get]),
        ("GET / HTTP/1.1 \r\n\r\n", &[Method::Get]),
        ("GET /HTTP/1.1\r\n\r\n", &[Method::Get]),
        ("EHLO mail\r\n", &[Method::Other]),
    ] {
        check_requests(text, methods, Some(Unparsed::NotHttp));
    }
    check_requests(
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[],
        Some(Unparsed::Http2),
    );
    for text in [
        "220 mail ESMTP\r\n",
        "HTTP/2.0 200 OK\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
    ] {
        check_responses(&["GET"], text, &[], Some(Unparsed::NotHttp));
    }
}

#[test]
fn empty_lines_and_bare_line_feeds_are_taken_as_servers_take_them() {
    let requests = "\r\n\nGET /a HTTP/1.1\nHost: a\n\n\r\nPOST /b HTTP/1.1\r\n\r\n";
    check_requests(requests, &[Method::Get, Method::Post], None);
    check_responses(
        &["GET", "GET"],
        "HTTP/1.1 200\nContent-Length: 1\n\nx\r\nHTTP/1.1 204 \r\n\r\n",
        &[200, 204],
        None,
    );
}

#[test]
fn heads_of_any_length_are_passed_over() {
    let long = "x".repeat(3000);
    let requests = std::format!(
        "GET /{long} HTTP/1.1\r\nCookie: {long}\r\nC: d\r\nT: u\r\nContent-Lengthy: 9\r\n\
         Transfer-Encodings: x\r\nContent: 1\r\nTransfer\r\n{long}\r\n\r\nHEAD / HTTP/1.1\r\n\r\n"
    );
    check_requests(&requests, &[Method::Get, Method::Head], None);
}

#[test]
fn heads_that_readers_disagree_about_are_not_followed() {
    for line in [
        " folded: 1",
        "\tfolded: 1",
        "Content-Length : 0",
        "Content-Length\t: 0",
        "Transfer-Encoding : chunked",
        "\rX: 1",
    ] {
        let request = std::format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        check_requests(&request, &[Method::Get], Some(Unparsed::Header));
    }
    for value in [
        "",
        "x",
        "-1",
        "+1",
        "1x",
        "1, 1",
        "1 1",
        "0x1",
        "1\r",
        "99999999999999999999",
    ] {
        let request = std::format!("GET / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n");
        check_requests(&request, &[Method::Get], Some(Unparsed::ContentLength));
    }
    let differ = "GET / HTTP/1.1\r\ncontent-length: 1\r\nCONTENT-LENGTH: 2\r\n\r\n";
    check_requests(differ, &[Method::Get], Some(Unparsed::ContentLength));
    for value in [
        "",
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "chunkedx",
        "chunke",
        "\x0bchunked",
        "chunked\r",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nContent-Length: 3",
    ] {
        let request = std::format!("POST / HTTP/1.1\r\nTransfer-Encoding: {value}\r\n\r\n");
        check_requests(&request, &[Method::Post], Some(Unparsed::TransferEncoding));
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    check_requests(old, &[Method::Post], Some(Unparsed::TransferEncoding));
}
