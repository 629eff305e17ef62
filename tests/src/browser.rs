//! A headless Chromium, driven over WebDriver (w3.org/TR/webdriver2) by Debian's chromedriver.
//!
//! The protocol is JSON over HTTP and a test needs six commands of it, which is less than the
//! crates for it bring along.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::cgroup::in_cgroup;
use crate::patience::scaled;
use crate::sandbox::{Sandbox, free_port};

/// How long the browser may take to start, and each command to be done.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where [`Browser::picture`] puts pictures, if it is set.
const PICTURES: &str = "MESH_PICTURES";

/// A browser without a screen. Its processes are in a cgroup of the sandbox and end with it.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

/// Whether there is a browser here, and what drives it.
pub fn is_here() -> bool {
    let runs = |program: &str| {
        let run = Command::new(program).arg("--version").output();
        run.is_ok_and(|output| output.status.success())
    };
    let here = runs("chromium") && runs("chromedriver");
    if !here {
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: needs chromium (Debian packages chromium, chromium-driver)"
        );
    }
    here
}

impl Browser {
    /// Starts one with a window of a size, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(sandbox: &Sandbox, width: u32, height: u32) -> io::Result<Self> {
        let address = free_port()?;
        let home = sandbox.path("browser");
        fs::create_dir(&home)?;
        let cgroup = sandbox.cgroup.child("browser")?;
        let driver = in_cgroup(&cgroup, "chromedriver")
            .arg(format!("--port={}", address.port()))
            .env("HOME", &home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut browser = Self {
            driver,
            address,
            session: String::new(),
        };
        browser.wait_for_driver()?;
        let profile = home.join("profile");
        let options = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": options},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.command("POST", "/session", &wanted)?;
        let id = session["sessionId"].as_str();
        browser.session = id.ok_or_else(|| io::Error::other("no session"))?.to_owned();
        Ok(browser)
    }

    fn wait_for_driver(&self) -> io::Result<()> {
        let deadline = Instant::now() + scaled(PATIENCE);
        loop {
            match self.command("GET", "/status", &Value::Null) {
                Ok(status) if status["ready"] == true => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Errors
    ///
    /// It cannot be loaded.
    pub fn open(&self, url: &str) -> io::Result<()> {
        self.ask("POST", "/url", &json!({"url": url})).map(drop)
    }

    /// Runs the body of an asynchronous function in the page; what it returns.
    ///
    /// # Errors
    ///
    /// It throws.
    pub fn run(&self, script: &str) -> io::Result<Value> {
        let script = format!("return (async () => {{ {script} }})()");
        let body = json!({"script": script, "args": []});
        self.ask("POST", "/execute/sync", &body)
    }

    /// Clicks where people would click to hit an element.
    ///
    /// # Errors
    ///
    /// There is none, or something else is in front of it.
    pub fn click(&self, css: &str) -> io::Result<()> {
        let element = self.element(css)?;
        let path = format!("/element/{element}/click");
        self.ask("POST", &path, &json!({})).map(drop)
    }

    /// Types into an element.
    ///
    /// # Errors
    ///
    /// There is none, or it takes no keys.
    pub fn keys(&self, css: &str, text: &str) -> io::Result<()> {
        let element = self.element(css)?;
        let path = format!("/element/{element}/value");
        self.ask("POST", &path, &json!({"text": text})).map(drop)
    }

    fn element(&self, css: &str) -> io::Result<String> {
        let wanted = json!({"using": "css selector", "value": css});
        let element = self.ask("POST", "/element", &wanted)?;
        // The name is the standard's.
        let id = element["element-6066-11e4-a52e-4f735466cecf"].as_str();
        id.map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("{css}: {element}")))
    }

    /// Sets what the page sees as the size of the window.
    ///
    /// # Errors
    ///
    /// The browser's.
    pub fn resize(&self, width: u32, height: u32) -> io::Result<()> {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", &size)
    }

    /// Lets the page believe that the system prefers `light` or `dark`.
    ///
    /// # Errors
    ///
    /// The browser's.
    pub fn prefer(&self, scheme: &str) -> io::Result<()> {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.chromium(
            "Emulation.setEmulatedMedia",
            &json!({"features": [feature]}),
        )
    }

    fn chromium(&self, command: &str, parameters: &Value) -> io::Result<()> {
        let body = json!({"cmd": command, "params": parameters});
        self.ask("POST", "/goog/cdp/execute", &body).map(drop)
    }

    /// What the page has complained of: errors, and what its security policy has refused.
    ///
    /// # Errors
    ///
    /// The browser's.
    pub fn complaints(&self) -> io::Result<Vec<String>> {
        let log = self.ask("POST", "/se/log", &json!({"type": "browser"}))?;
        let entries = log.as_array().cloned().unwrap_or_default();
        let text = |entry: &Value| Some(entry["message"].as_str()?.to_owned());
        // Of the page: the browser's own first tab has complaints of its own.
        let of_page = |text: &String| !text.starts_with("chrome://");
        Ok(entries.iter().filter_map(text).filter(of_page).collect())
    }

    /// Takes a picture, if somebody wants to look at it (`MESH_PICTURES=directory`).
    ///
    /// # Errors
    ///
    /// It cannot be taken or written.
    pub fn picture(&self, name: &str) -> io::Result<()> {
        let Some(directory) = env::var_os(PICTURES) else {
            return Ok(());
        };
        let picture = self.ask("GET", "/screenshot", &Value::Null)?;
        let bytes = STANDARD
            .decode(picture.as_str().unwrap_or_default())
            .map_err(io::Error::other)?;
        let path = std::path::Path::new(&directory).join(format!("{name}.png"));
        fs::write(path, bytes)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let path = format!("/session/{}{path}", self.session);
        self.command(method, &path, body)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(scaled(PATIENCE)))?;
        let body = match method {
            "POST" => body.to_string(),
            _ => String::new(),
        };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )?;
        let document: Value = serde_json::from_slice(&body_of(stream)?)?;
        let value = document["value"].clone();
        match value.get("error") {
            Some(error) => Err(io::Error::other(format!(
                "{path}: {error}: {}",
                value["message"]
            ))),
            None => Ok(value),
        }
    }
}

/// The body of an answer: chromedriver does not close the connection behind it.
fn body_of(stream: TcpStream) -> io::Result<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

impl Drop for Browser {
    fn drop(&mut self) {
        // What does not end by this ends with the sandbox's cgroup.
        let _ = self.command(
            "DELETE",
            &format!("/session/{}", self.session),
            &Value::Null,
        );
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
