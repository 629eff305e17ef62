//! A Prometheus of our own, and asking it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::sandbox::{Sandbox, free_port};

/// A Prometheus that scrapes one agent twice a second; dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    /// Starts it with these files of rules, evaluated as often. It lives in the sandbox.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start(sandbox: &Sandbox, rules: &[&Path]) -> Self {
        Self::start_with(sandbox, rules, "")
    }

    /// The same; `job` is what it has to know besides the agent's address, in YAML.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start_with(sandbox: &Sandbox, rules: &[&Path], job: &str) -> Self {
        let port = free_port().expect("a port").port();
        let config = sandbox.path("prometheus.yml");
        fs::write(&config, configuration(sandbox.admin(), rules, job)).expect("written");
        let log = File::create(sandbox.path("prometheus.log")).expect("created");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                sandbox.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(sandbox.path("run"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it runs");
        Self { child, port }
    }

    /// The values of an instant query; none while it does not answer.
    pub fn query(&self, query: &str) -> Vec<f64> {
        let value = |one: &Value| one["value"][1].as_str()?.parse().ok();
        let answer = self.answer(query);
        let series = answer["data"]["result"].as_array().into_iter().flatten();
        series.filter_map(value).collect()
    }

    /// Its answer to an instant query; null while it does not answer.
    pub fn answer(&self, query: &str) -> Value {
        self.document(&format!("/api/v1/query?query={}", encoded(query)))
    }

    /// A document of its API; null while it does not answer.
    pub fn document(&self, path: &str) -> Value {
        let answer = ask(self.port, path, "");
        let body = answer.map(|(_, body)| body).unwrap_or_default();
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(target: SocketAddr, rules: &[&Path], job: &str) -> String {
    let files = rules.iter().map(|path| format!("- {}\n", path.display()));
    format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms }}\n\
         rule_files:\n{}\
         scrape_configs:\n- job_name: mesh\n{job}  static_configs:\n  - targets: ['{target}']\n",
        files.collect::<String>()
    )
}

/// As a part of a URL (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// An HTTP/1.0 answer of a port of loopback: its head, in lower case, and its body.
///
/// # Errors
///
/// Nobody answers, or not by HTTP.
pub fn ask(port: u16, path: &str, headers: &str) -> io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::other("no head"))?;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    Ok((head, answer.split_off(end + 4)))
}

/// Whether a program is there; says that a test is skipped if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: needs {program} (Debian package prometheus)"
        );
    }
    found
}
