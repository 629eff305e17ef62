//! One flow: what the application and the tunnel say to each other, until both have ended.
//!
//! Both directions are one task. A direction that can move does so in one step, without waiting
//! in between (see `scratch`); what one socket did not take keeps the other from being read, and
//! so a receiver that does not read stops the sender.

mod down;
#[cfg(test)]
mod tests;
mod up;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::broken::Broken;
use super::link::Link;
use super::outgoing::Outgoing;
use super::scratch::WINDOW;
use super::session::{Role, Session};
use super::socket;
use super::tap::Tap;
use super::wire::Frame;

/// How long the peer may take to end a flow that was reset.
const RESET_PATIENCE: Duration = Duration::from_secs(5);

/// Steps before other flows have their turn: 8 MiB at most.
const STEPS: usize = 16;

/// What a step moves of a flow that moves little, bytes.
const CALM: usize = WINDOW / 8;

/// How a flow went.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Bytes from the application.
    pub sent: u64,
    /// Bytes for the application.
    pub received: u64,
    /// What ended it.
    pub end: End,
}

/// What ended a flow.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// FIN in both directions.
    Finished,
    /// The application's connection was reset.
    ResetByApp,
    /// The peer's application was, or the peer could not go on.
    ResetByPeer,
    /// The connection between the agents ended; the application's was reset.
    Broken(Broken),
}

/// A flow in progress. Its output is how it went, and the session if that can carry another one.
#[must_use = "a flow moves only while it is polled"]
pub struct Relay<R> {
    flow: Option<Flow>,
    role: PhantomData<R>,
}

/// How a direction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    End,
    Reset,
}

/// Both directions.
struct Flow {
    link: Box<Link>,
    /// `None` once it is reset.
    app: Option<TcpStream>,
    /// Data that the application has not taken yet.
    undelivered: Outgoing,
    sent: Option<Terminal>,
    received: Option<Terminal>,
    /// Whether the application was sent FIN.
    is_finished: bool,
    is_server: bool,
    /// What ended it, if that is not FIN.
    end: Option<End>,
    /// Data that came after RESET was sent, bytes.
    discarded: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    up_window: usize,
    down_window: usize,
    tap: Option<Box<dyn Tap>>,
}

impl<R: Role> Relay<R> {
    pub(super) fn new(link: Box<Link>, app: TcpStream) -> Self {
        // Delay, or FIN if this process is killed, is all that an error here means.
        let _ = socket::prepare_app(&app);
        let flow = Flow {
            link,
            app: Some(app),
            undelivered: Outgoing::default(),
            sent: None,
            received: None,
            is_finished: false,
            is_server: R::IS_SERVER,
            end: None,
            discarded: 0,
            deadline: None,
            up_window: CALM,
            down_window: CALM,
            tap: None,
        };
        Self {
            flow: Some(flow),
            role: PhantomData,
        }
    }

    /// Shows what it carries. The tap is dropped when the flow has ended.
    pub fn watched_by(mut self, tap: Box<dyn Tap>) -> Self {
        if let Some(flow) = &mut self.flow {
            flow.tap = Some(tap);
        }
        self
    }
}

// Nothing in it is pinned in place.
impl<R> Unpin for Relay<R> {}

impl<R: Role> Future for Relay<R> {
    type Output = (Outcome, Option<Session<R>>);

    /// # Panics
    ///
    /// After it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let flow = this.flow.as_mut().expect("a flow ends once");
        match flow.poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => {
                let flow = this.flow.take().expect("it was there");
                let (outcome, link) = flow.conclude(ended);
                Poll::Ready((outcome, link.map(Session::new)))
            }
        }
    }
}

impl<R> Drop for Relay<R> {
    /// The application learns that the flow did not end as it wanted.
    fn drop(&mut self) {
        if let Some(app) = self.flow.take().and_then(|flow| flow.app) {
            socket::reset(app);
        }
    }
}

impl Flow {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.link.control.register(context);
        for _ in 0..STEPS {
            self.obey()?;
            let up = self.poll_up(context)?;
            let down = self.poll_down(context)?;
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !up && !down {
                return self.poll_deadline(context);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what [`super::Control`] was asked for.
    fn obey(&mut self) -> Result<(), Broken> {
        let Link { control, .. } = &*self.link;
        if control.is_cut() {
            return Err(Broken::Cut);
        }
        if control.is_draining() && self.is_server && !self.link.has_said_goaway {
            self.link.has_said_goaway = true;
            self.link.queue(&Frame::GoAway)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let is_delivered = self.is_finished || self.app.is_none();
        let is_ended = self.sent.is_some() && self.received.is_some();
        is_ended && is_delivered && self.link.outgoing.is_empty()
    }

    /// Ends the flow from this side.
    fn send_terminal(&mut self, terminal: Terminal) -> Result<(), Broken> {
        self.sent = Some(terminal);
        self.link.queue(match terminal {
            Terminal::End => &Frame::End,
            Terminal::Reset => &Frame::Reset,
        })
    }

    /// The application's connection is gone.
    fn app_is_gone(&mut self) -> Result<(), Broken> {
        self.app = None;
        self.undelivered.clear();
        // A peer that has ended and knows the end of this side has closed; RESET tells the
        // others.
        self.end.get_or_insert(End::ResetByApp);
        if self.sent != Some(Terminal::Reset) {
            self.send_terminal(Terminal::Reset)?;
        }
        Ok(())
    }

    /// The peer has reset the flow.
    fn peer_has_reset(&mut self) -> Result<(), Broken> {
        if let Some(app) = self.app.take() {
            socket::reset(app);
        }
        self.undelivered.clear();
        self.end.get_or_insert(End::ResetByPeer);
        if self.sent.is_none() {
            self.send_terminal(Terminal::Reset)?;
        }
        Ok(())
    }

    /// A peer that does not end a flow that was reset loses the connection.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.end.is_none() {
            return Poll::Pending;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(RESET_PATIENCE)));
        deadline
            .as_mut()
            .poll(context)
            .map(|()| Err(Broken::Unended))
    }

    fn conclude(self, ended: Result<(), Broken>) -> (Outcome, Option<Box<Link>>) {
        let Self {
            mut link,
            app,
            received,
            end,
            is_server,
            ..
        } = self;
        let outcome = |end| Outcome {
            sent: link.control.sent(),
            received: link.control.received(),
            end,
        };
        if let Err(broken) = ended {
            if let Some(app) = app {
                socket::reset(app);
            }
            return (outcome(end.unwrap_or(End::Broken(broken))), None);
        }
        if let Some(app) = app {
            socket::release(app);
        }
        let outcome = outcome(end.unwrap_or(End::Finished));
        link.end_flow(received == Some(Terminal::End));
        // The server's side stays: it refuses what crosses its GOAWAY.
        let is_last = !is_server && (link.is_last || link.control.is_draining());
        (outcome, (!is_last).then_some(link))
    }
}

/// The window of the next step: all of it once a read fills it, little again when reads do not.
fn next_window(window: usize, moved: usize) -> usize {
    match moved {
        moved if moved >= window => WINDOW,
        moved if moved < CALM / 2 => CALM,
        _ => window,
    }
}
