//! Every way in which messages begin and end.

use mesh_tests::{Mesh, Peer, Sandbox, host};

use super::{Book, CHECKOUT, ENDPOINT, PAYMENTS, SHOP, Said, VIP, client, server, talk};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Case<'s> {
    mesh: Mesh<'s>,
    server: Peer,
    client: Peer,
    book: Book,
}

impl<'s> Case<'s> {
    fn new(sandbox: &'s Sandbox) -> Self {
        sandbox.cgroup.child(PAYMENTS).expect("a cgroup");
        let mesh = Mesh::start(sandbox, SHOP);
        Self {
            server: mesh.peer(PAYMENTS),
            client: mesh.peer(CHECKOUT),
            book: Book::default(),
            mesh,
        }
    }

    /// Has a conversation, in which these requests are answered so.
    #[track_caller]
    fn check(&mut self, conversation: &[Said], answers: &[(&str, u16)], reason: &str) {
        assert!(self.mesh.agent.is_some());
        talk(
            &mut self.server,
            ENDPOINT,
            &mut self.client,
            VIP,
            conversation,
        );
        for (method, code) in answers {
            self.book
                .request("shop/checkout", "shop/payments", method, *code, 1);
        }
        if !reason.is_empty() {
            self.book.unparsed(reason);
        }
    }
}

/// The bytes one by one.
fn bit_by_bit(text: &str, say: impl Fn(Vec<u8>) -> Said) -> Vec<Said> {
    text.bytes().map(|byte| say(vec![byte])).collect()
}

#[test]
fn every_framing_is_followed() {
    host::run("http-framing", |sandbox| {
        let mut case = Case::new(sandbox);
        let keep_alive = vec![[client(GET), server(OK)]; 20].concat();
        case.check(&keep_alive, &[("GET", 200); 20], "");
        case.check(
            &[
                client("POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n"),
                client("hello"),
                server("HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"),
                client("PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
                client("0\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx"),
                server("\r\n0\r\nTrailer: a\r\n\r\n"),
                client("HEAD / HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
                client("DELETE /a HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 204 Gone\r\n\r\n"),
                client(GET),
                server("HTTP/1.1 304 Same\r\nContent-Length: 99\r\n\r\n"),
                client("PATCH /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"),
                server("HTTP/1.1 100 Continue\r\n\r\n"),
                client("abc"),
                server("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
                client("PURGE /a HTTP/1.1\r\n\r\n"),
                server("HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"),
                client(GET),
                server("HTTP/1.1 200 OK\r\nServer: a\r\n\r\nuntil the end"),
            ],
            &[
                ("POST", 201),
                ("PUT", 200),
                ("HEAD", 200),
                ("DELETE", 204),
                ("GET", 304),
                ("PATCH", 500),
                ("other", 405),
                ("GET", 200),
            ],
            "",
        );
        case.book.settle(sandbox);
    });
}

#[test]
fn packets_cut_messages_anywhere() {
    host::run("http-cuts", |sandbox| {
        let mut case = Case::new(sandbox);
        let mut bits = bit_by_bit(
            "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
            Said::Client,
        );
        bits.extend(bit_by_bit(OK, Said::Server));
        bits.extend(bit_by_bit(GET, Said::Client));
        bits.extend(bit_by_bit(OK, Said::Server));
        case.check(&bits, &[("POST", 200), ("GET", 200)], "");

        let pipelined = [
            client(&GET.repeat(16)),
            server(&OK.repeat(7)),
            server(&OK.repeat(9)),
        ];
        case.check(&pipelined, &[("GET", 200); 16], "");
        let many = [client(&GET.repeat(1500)), server(&OK.repeat(1500))];
        case.check(&many, &[("GET", 200); 1500], "");

        // Heads over many packets, and bodies that are larger than a packet can be.
        let cookie = "c".repeat(100_000);
        let body = "b".repeat(3_000_000);
        let large = [
            client(&format!(
                "POST / HTTP/1.1\r\nCookie: {cookie}\r\nContent-Length: 3000000\r\n\r\n"
            )),
            client(&body),
            server(&format!(
                "HTTP/1.1 200 OK\r\nSet-Cookie: {cookie}\r\nContent-Length: 3000000\r\n\r\n{body}"
            )),
            client(GET),
            server(OK),
        ];
        case.check(&large, &[("POST", 200), ("GET", 200)], "");
        case.book.settle(sandbox);
    });
}

#[test]
fn what_cannot_be_followed_is_counted_and_left_alone() {
    host::run("http-unparsed", |sandbox| {
        let mut case = Case::new(sandbox);
        let garbage = [
            client("\x16\x03\x01 no HTTP at all"),
            server("neither is this"),
            client(GET),
            server(OK),
        ];
        case.check(&garbage, &[], "not-http");
        let upgrade = [
            client("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
            server("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n"),
            client("\x01\x02"),
            server("GET / HTTP/1.1\r\n\r\n"),
        ];
        case.check(&upgrade, &[("GET", 101)], "upgraded");
        let smuggled = [
            client("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
            client("0\r\n\r\n"),
            server(OK),
        ];
        case.check(&smuggled, &[], "transfer-encoding");
        // A preface is recognised where it is whole.
        let http2 = [
            client("PRI * HTTP/2.0\r\n"),
            Said::Pause(100),
            client("\r\nSM\r\n\r\n"),
            server("frames"),
        ];
        case.check(&http2, &[], "http2");
        case.check(&[server(OK), client(GET)], &[], "unsolicited");
        case.book.settle(sandbox);
    });
}

#[test]
fn requests_without_an_answer_are_counted() {
    host::run("http-unanswered", |sandbox| {
        let mut case = Case::new(sandbox);
        let dropped = [
            client(GET),
            server(OK),
            client(&GET.repeat(3)),
            client("PUT /a HTTP/1.1"),
        ];
        case.check(
            &dropped,
            &[("GET", 200), ("GET", 0), ("GET", 0), ("GET", 0), ("PUT", 0)],
            "",
        );
        case.book.settle(sandbox);
    });
}

#[test]
fn time_is_from_first_byte_to_first_byte() {
    host::run("http-time", |sandbox| {
        let mut case = Case::new(sandbox);
        // The client takes its time between its first bytes and the rest.
        let slow = [
            client("GET / HT"),
            Said::Pause(300),
            client("TP/1.1\r\n\r\n"),
            server(OK),
        ];
        case.check(&slow, &[("GET", 200)], "");
        case.book.settle(sandbox);
        let name = "mesh_http_request_duration_seconds";
        let bucket = |le: &str| {
            let labels = [("le", le)];
            let bucket = format!("{name}_bucket");
            mesh_tests::agent::metric(sandbox, &bucket, &labels).expect("metrics")
        };
        assert_eq!((bucket("0.25"), bucket("5.0")), (0.0, 1.0));
        let sum = mesh_tests::agent::metric(sandbox, &format!("{name}_sum"), &[]);
        assert!((0.3..3.0).contains(&sum.expect("metrics")));
    });
}
