//! The terminal: drawn once a second and at every key, and left as it was found.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};
use ratatui::{DefaultTerminal, Frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::rows::{HEAD, Sort, rows};
use crate::telemetry::services::Services;

/// How often the agent is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How often keys and signals are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Rows that a page up or down moves.
const PAGE: usize = 10;

type Answer = Result<Services, String>;

/// What is shown.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) sort: Sort,
    pub(super) services: Services,
    /// Why there is no newer answer, and since when.
    pub(super) problem: Option<(String, Instant)>,
    pub(super) coloured: bool,
    pub(super) state: TableState,
}

/// Shows what `ask` answers until somebody has seen enough.
///
/// # Errors
///
/// The terminal's.
pub(super) fn run(ask: impl Fn() -> Answer + Send + 'static, sort: Sort) -> io::Result<()> {
    // Before there are threads, and before the terminal is another.
    let signals = signals()?;
    let (send, answers) = channel();
    let (alive, stopped) = channel();
    thread::Builder::new()
        .name("ask".into())
        .spawn(move || keep_asking(&ask, &send, &stopped))?;
    let mut terminal = ratatui::try_init()?;
    let outcome = Screen::new(sort).run(&mut terminal, &answers, &signals);
    let restored = ratatui::try_restore();
    drop::<Sender<()>>(alive);
    outcome.and(restored)
}

fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        set.add(signal);
    }
    set.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&set, flags)?)
}

/// Waits for keys, for a moment; whether the terminal is gone, which crossterm would go on reading.
fn has_hung_up() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut keys = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(LOOK.subsec_nanos()),
    };
    match poll(&mut keys, Some(&timeout)) {
        Ok(_) => Ok(keys[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn keep_asking(ask: &impl Fn() -> Answer, answers: &Sender<Answer>, stopped: &Receiver<()>) {
    while answers.send(ask()).is_ok() {
        if stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

impl Screen {
    pub(super) fn new(sort: Sort) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            sort,
            services: Services::default(),
            problem: None,
            coloured: !plain,
            state: TableState::default(),
        }
    }

    fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        answers: &Receiver<Answer>,
        signals: &SignalFd,
    ) -> io::Result<()> {
        let mut stale = true;
        loop {
            for answer in answers.try_iter() {
                self.take(answer);
                stale = true;
            }
            if std::mem::take(&mut stale) {
                terminal.draw(|frame| self.draw(frame))?;
            }
            if signals.read_signal()?.is_some() {
                return Ok(());
            }
            if has_hung_up()? {
                return Ok(());
            }
            while event::poll(Duration::ZERO)? {
                // A new size is an event, too.
                stale = true;
                if self.ends(&event::read()?) {
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn take(&mut self, answer: Answer) {
        match answer {
            Ok(services) => {
                self.services = services;
                self.problem = None;
            }
            Err(problem) => {
                let since = self.problem.as_ref().map(|(_, since)| *since);
                self.problem = Some((problem, since.unwrap_or_else(Instant::now)));
            }
        }
    }

    /// Does what a key says; `true` if that is to end.
    fn ends(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else {
            return false;
        };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if control => return true,
            KeyCode::Char(key) => self.sort = Sort::of_key(key).unwrap_or(self.sort),
            KeyCode::Down => self.state.select_next(),
            KeyCode::Up => self.state.select_previous(),
            KeyCode::PageDown => self.state.scroll_down_by(PAGE as u16),
            KeyCode::PageUp => self.state.scroll_up_by(PAGE as u16),
            KeyCode::Home => self.state.select_first(),
            KeyCode::End => self.state.select_last(),
            _ => {}
        }
        false
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas = Layout::vertical([
            Constraint::Length(1),
            Constraint::Min(0),
            Constraint::Length(1),
        ]);
        let [top, middle, bottom] = areas.areas(frame.area());
        frame.render_widget(self.headline(), top);
        let table = self.table();
        frame.render_stateful_widget(table, middle, &mut self.state);
        let keys = "q quit  sort: n name r rate e errors l latency o open b bytes d denied";
        frame.render_widget(Line::from(keys), bottom);
    }

    fn headline(&self) -> Line<'static> {
        let count = self.services.services.len();
        let text = match &self.problem {
            Some((problem, since)) => {
                let age = since.elapsed().as_secs();
                return Line::styled(format!("no answer for {age} s: {problem}"), self.bad());
            }
            None if self.services.window_seconds > 0.0 => {
                let over = self.services.window_seconds;
                format!("mesh-agent top - {count} services, over the last {over:.0} s")
            }
            None => format!("mesh-agent top - {count} services, measuring"),
        };
        Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
    }

    fn table(&self) -> Table<'static> {
        let rows = rows(&self.services, self.sort);
        let mut widths = HEAD.map(|(name, _)| name.len() + 1);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let head = HEAD.map(|(name, key)| match key {
            Some(key) if key == self.sort.key() => format!("{name}*"),
            _ => name.to_owned(),
        });
        let head = Row::new(head).style(Style::new().add_modifier(Modifier::REVERSED));
        let rows = rows.into_iter().map(|row| {
            let style = if row.bad { self.bad() } else { Style::new() };
            Row::new(row.cells.map(Cell::from)).style(style)
        });
        let widths = widths.map(|width| Constraint::Length(width.try_into().unwrap_or(u16::MAX)));
        Table::new(rows, widths)
            .header(head)
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::BOLD))
    }

    fn bad(&self) -> Style {
        match self.coloured {
            true => Style::new().fg(Color::Red),
            false => Style::new().add_modifier(Modifier::BOLD),
        }
    }
}
