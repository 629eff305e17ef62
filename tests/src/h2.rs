//! A server and a client of HTTP/2, without TLS, that do what paths say.
//!
//! | path | is answered by |
//! |---|---|
//! | `/status/N` | status N |
//! | `/body/N` | 200 and N bytes |
//! | `/big/N` | status N and a head of 40 KB, which takes CONTINUATION frames |
//! | `/grpc/N` | 200, a message, and `grpc-status: N` in trailers |
//! | `/only/N` | 200 and `grpc-status: N` at once |
//! | `/reset/0` | RST_STREAM |
//! | `/half/N` | status N, part of a body, RST_STREAM |
//! | `/bye/N` | status N, and GOAWAY |
//! | `/leave/0` | nothing: the connection ends |

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::sleep;

/// Length of a field in a head that is `big`.
const BIG: usize = 4000;

/// Runs `serve ADDRESS`, or `call ADDRESS AT-ONCE PATH[*TIMES]..`.
///
/// # Errors
///
/// The arguments are wrong, or the network's.
pub fn run(arguments: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let work = async {
        match arguments {
            [verb, address] if verb == "serve" => serve(address.parse()?).await,
            [verb, address, at_once, paths @ ..] if verb == "call" => {
                call(address.parse()?, at_once.parse()?, paths).await
            }
            _ => bail!("serve ADDRESS | call ADDRESS AT-ONCE PATH[*TIMES].."),
        }
    };
    LocalSet::new().block_on(&runtime, work)
}

async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("serving");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        spawn_local(async move {
            // A client that goes is none of the server's business.
            let _ = converse(stream).await;
        });
    }
}

/// What a request wants of the connection.
enum Wish {
    Bye,
    Leave,
}

async fn converse(stream: TcpStream) -> Result<()> {
    let mut connection = server::handshake(stream).await?;
    let (sender, mut wishes) = mpsc::channel(1);
    loop {
        tokio::select! {
            asked = connection.accept() => {
                let Some(asked) = asked else { return Ok(()) };
                let (request, respond) = asked?;
                spawn_local(answer(request, respond, sender.clone()));
            }
            Some(wish) = wishes.recv() => match wish {
                Wish::Bye => connection.graceful_shutdown(),
                Wish::Leave => return Ok(()),
            }
        }
    }
}

async fn answer(
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wishes: mpsc::Sender<Wish>,
) -> Result<()> {
    let path = request.uri().path().to_owned();
    let mut words = path.split('/').skip(1);
    let what = words.next().unwrap_or_default();
    let number: u16 = words.next().unwrap_or("0").parse()?;
    if what == "reset" {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    if what == "leave" {
        wishes.send(Wish::Leave).await?;
        return Ok(());
    }
    while let Some(part) = request.body_mut().data().await {
        let length = part?.len();
        request.body_mut().flow_control().release_capacity(length)?;
    }
    let is_status = matches!(what, "status" | "big" | "half" | "bye");
    let mut response = Response::builder()
        .status(if is_status { number } else { 200 })
        .body(())?;
    let status = HeaderValue::from(number);
    match what {
        "body" => {
            let mut send = respond.send_response(response, false)?;
            send.send_data(vec![b'x'; number.into()].into(), true)?;
        }
        "grpc" => {
            let mut send = respond.send_response(response, false)?;
            send.send_data(Bytes::from_static(b"\0\0\0\0\x03abc"), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status);
            send.send_trailers(trailers)?;
        }
        "half" => {
            let mut send = respond.send_response(response, false)?;
            send.send_data(Bytes::from_static(b"half of it"), false)?;
            // What is queued is lost with a reset.
            sleep(Duration::from_millis(100)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        _ => {
            let headers = response.headers_mut();
            if what == "only" {
                headers.insert("grpc-status", status);
            }
            if what == "big" {
                for _ in 0..10 {
                    headers.append("x-big", HeaderValue::from_bytes(&[b'~'; BIG])?);
                }
            }
            respond.send_response(response, true)?;
        }
    }
    if what == "bye" {
        wishes.send(Wish::Bye).await?;
    }
    Ok(())
}

async fn call(address: SocketAddr, at_once: usize, paths: &[String]) -> Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = client::handshake(stream).await?;
    spawn_local(connection);
    let mut calls = JoinSet::new();
    for path in paths {
        let (path, times) = path.split_once('*').unwrap_or((path, "1"));
        for number in 0..times.parse::<usize>()? {
            while calls.len() >= at_once {
                calls.join_next().await;
            }
            sender = sender.ready().await.context("the connection")?;
            // Fields of their own, so that tables are filled and emptied.
            let request = Request::post(format!("http://mesh.test{path}"))
                .header("x-number", number)
                .header(format!("x-{}", number % 7), format!("{number:0>100}"))
                .body(())?;
            let (response, mut send) = sender.send_request(request, false)?;
            send.send_data(Bytes::from_static(b"\0\0\0\0\x03abc"), true)?;
            calls.spawn_local(async move {
                let mut body = response.await?.into_body();
                while let Some(part) = body.data().await {
                    body.flow_control().release_capacity(part?.len())?;
                }
                body.trailers().await?;
                Ok::<_, h2::Error>(())
            });
        }
    }
    let outcomes = calls.join_all().await;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    println!("done, {failed} of the last failed");
    Ok(())
}
