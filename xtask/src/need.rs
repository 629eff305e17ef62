//! The tools beyond Rust itself: what each is for, how to see it, how to get it.

use std::{env, fs, path::Path};

use crate::host;

/// A tool that some task cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    BpfCompiler,
    BpfLinker,
    Ip,
    Prometheus,
    Qemu,
    Cpio,
    Kmod,
    Debian,
    QemuArm,
    Rustfmt,
    Clippy,
    BpfClippy,
    CargoDeny,
    CargoFuzz,
    Proxies,
    LoadTools,
    Tcpdump,
    Openssl,
    Web,
    Grpc,
    Chromium,
    Tmux,
    CargoDeb,
    CargoAbout,
    CargoCyclonedx,
    Dpkg,
    Shellcheck,
    CrossAmd64,
    CrossArm64,
    QemuUser,
    SystemdAnalyze,
}

impl Need {
    pub(crate) const BUILD: [Self; 2] = [Self::BpfCompiler, Self::BpfLinker];
    /// The demo and the benchmarks, which make network namespaces.
    pub(crate) const RUN: [Self; 3] = [Self::BpfCompiler, Self::BpfLinker, Self::Ip];
    pub(crate) const TEST: [Self; 9] = [
        Self::BpfCompiler,
        Self::BpfLinker,
        Self::Ip,
        Self::Prometheus,
        Self::Openssl,
        Self::Chromium,
        Self::Tmux,
        Self::Web,
        Self::Grpc,
    ];
    /// The guests of `cargo xtask vm`.
    pub(crate) const VM: [Self; 6] = [
        Self::BpfCompiler,
        Self::BpfLinker,
        Self::Ip,
        Self::Qemu,
        Self::Cpio,
        Self::Kmod,
    ];
    /// Those of `cargo xtask vm --systemd`, besides.
    pub(crate) const SYSTEMD: [Self; 1] = [Self::Debian];
    /// Those of `cargo xtask vm --arm64`, besides.
    pub(crate) const ON_ARM64: [Self; 3] = [Self::QemuArm, Self::QemuUser, Self::CrossArm64];
    pub(crate) const LINT: [Self; 8] = [
        Self::BpfCompiler,
        Self::BpfLinker,
        Self::Rustfmt,
        Self::Clippy,
        Self::BpfClippy,
        Self::CargoDeny,
        Self::Shellcheck,
        Self::SystemdAnalyze,
    ];
    /// Packages for this machine's architecture; `dist` knows what another one takes.
    pub(crate) const DIST: [Self; 6] = [
        Self::BpfCompiler,
        Self::BpfLinker,
        Self::CargoDeb,
        Self::CargoAbout,
        Self::CargoCyclonedx,
        Self::Dpkg,
    ];
    /// What `bench tunnel` measures the mesh beside, and with.
    pub(crate) const TUNNEL: [Self; 2] = [Self::Proxies, Self::LoadTools];
    /// What `demo --two-hosts` looks at the wire with.
    pub(crate) const TWO_HOSTS: [Self; 1] = [Self::Tcpdump];
    /// What `demo --web` shows requests of.
    pub(crate) const WEB: [Self; 1] = [Self::Web];
    pub(crate) const FUZZ: [Self; 1] = [Self::CargoFuzz];
    pub(crate) const ALL: [Self; 25] = [
        Self::BpfCompiler,
        Self::BpfLinker,
        Self::Ip,
        Self::Prometheus,
        Self::Openssl,
        Self::Chromium,
        Self::Tmux,
        Self::Web,
        Self::Grpc,
        Self::Qemu,
        Self::Cpio,
        Self::Kmod,
        Self::Debian,
        Self::QemuArm,
        Self::Rustfmt,
        Self::Clippy,
        Self::BpfClippy,
        Self::CargoDeny,
        Self::Shellcheck,
        Self::CargoFuzz,
        Self::CargoDeb,
        Self::CargoAbout,
        Self::CargoCyclonedx,
        Self::Dpkg,
        Self::SystemdAnalyze,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BpfCompiler => "a Rust compiler with `core` for BPF",
            Self::BpfLinker => "bpf-linker",
            Self::Ip => "ip",
            Self::Prometheus => "prometheus",
            Self::Qemu => "qemu-system-x86_64",
            Self::Cpio => "cpio",
            Self::Kmod => "depmod and modprobe",
            Self::Debian => "mmdebstrap, mkfs.ext4 and dpkg-deb",
            Self::QemuArm => "qemu-system-aarch64",
            Self::Rustfmt => "rustfmt",
            Self::Clippy => "clippy",
            Self::BpfClippy => "clippy for the BPF compiler",
            Self::CargoDeny => "cargo-deny",
            Self::CargoFuzz => "cargo-fuzz",
            Self::Proxies => "nginx with its stream module, haproxy and stunnel",
            Self::LoadTools => "wrk and iperf3",
            Self::Tcpdump => "tcpdump",
            Self::Openssl => "openssl",
            Self::Chromium => "chromium and chromedriver",
            Self::Tmux => "tmux",
            Self::SystemdAnalyze => "systemd-analyze",
            Self::Web => "nginx, wrk and curl",
            Self::Grpc => "gRPC for Python",
            Self::CargoDeb => "cargo-deb",
            Self::CargoAbout => "cargo-about",
            Self::CargoCyclonedx => "cargo-cyclonedx",
            Self::Dpkg => "dpkg-deb",
            Self::Shellcheck => "shellcheck",
            Self::CrossAmd64 => "a C compiler for amd64",
            Self::CrossArm64 => "a C compiler for arm64",
            Self::QemuUser => "qemu-x86_64-static and qemu-aarch64-static",
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::BpfCompiler => "compiles the kernel programs",
            Self::BpfLinker => "links the kernel programs",
            Self::Ip => "sets up the network namespaces of tests and demo",
            Self::Prometheus => "scrapes the agent in the tests",
            Self::Qemu => "emulates a machine, to run the tests on other kernels",
            Self::Cpio => "packs the file system of such a machine",
            Self::Kmod => "finds and loads the modules of such a kernel",
            Self::Debian => "install Debian on the disk of a machine that is emulated",
            Self::QemuArm => "emulates an arm64 machine, to run the tests there",
            Self::Rustfmt => "checks the formatting",
            Self::Clippy => "lints the host code",
            Self::BpfClippy => "lints the kernel programs",
            Self::CargoDeny => "checks licences and sources of the dependencies",
            Self::CargoFuzz => "builds and runs the fuzz targets, with a C++ compiler",
            Self::Proxies => {
                "are measured beside the mesh, only by `bench tunnel`, and not kept running"
            }
            Self::LoadTools => "put load on what `bench tunnel` measures",
            Self::Tcpdump => "shows what crosses the wire in `demo --two-hosts`",
            Self::Openssl => "is another TLS implementation for the tests to meet",
            Self::Chromium => "looks at the page in the tests",
            Self::SystemdAnalyze => "tells how far the units are confined",
            Self::Tmux => "is the terminal of `top` in the tests",
            Self::Web => {
                "serve and send the requests that tests and `demo --web` count; not kept running"
            }
            Self::Grpc => "serves and makes the gRPC calls that tests count",
            Self::CargoDeb => "makes Debian packages",
            Self::CargoAbout => "gathers the licences of what is linked",
            Self::CargoCyclonedx => "lists what is linked",
            Self::Dpkg => "unpacks Debian packages, for the tarballs",
            Self::Shellcheck => "checks the scripts of the packages",
            Self::CrossAmd64 | Self::CrossArm64 => "builds packages for that architecture",
            Self::QemuUser => "tries what was built for another architecture",
        }
    }

    pub(crate) fn is_met(self) -> bool {
        match self {
            Self::BpfCompiler => {
                env::var_os("MESH_BPF_OBJECT").is_some() || BpfCompiler::find().is_some()
            }
            Self::BpfLinker => {
                env::var_os("MESH_BPF_OBJECT").is_some() || host::finds("bpf-linker")
            }
            Self::Ip => host::finds("ip"),
            Self::Prometheus => host::finds("prometheus") && host::finds("promtool"),
            Self::Qemu => host::finds("qemu-system-x86_64"),
            Self::Cpio => host::finds("cpio"),
            Self::Kmod => host::finds("depmod") && host::finds("modprobe"),
            Self::Debian => ["mmdebstrap", "mkfs.ext4", "dpkg-deb"]
                .into_iter()
                .all(host::finds),
            Self::QemuArm => host::finds("qemu-system-aarch64"),
            Self::Rustfmt => host::succeeds("cargo", &["fmt", "--version"]),
            Self::Clippy => host::succeeds("cargo", &["clippy", "--version"]),
            Self::BpfClippy => BpfCompiler::find().is_some_and(|compiler| compiler.has_clippy()),
            Self::CargoDeny => host::finds("cargo-deny"),
            Self::CargoFuzz => host::finds("cargo-fuzz") && host::finds("c++"),
            Self::Proxies => {
                ["nginx", "haproxy", "stunnel4"]
                    .into_iter()
                    .all(host::finds)
                    && Path::new(STREAM_MODULE).exists()
            }
            Self::LoadTools => host::finds("wrk") && host::finds("iperf3"),
            Self::Tcpdump => host::finds("tcpdump"),
            Self::Openssl => host::finds("openssl"),
            Self::Tmux => host::finds("tmux"),
            Self::SystemdAnalyze => host::finds("systemd-analyze"),
            Self::Web => ["nginx", "wrk", "curl"].into_iter().all(host::finds),
            Self::Grpc => host::succeeds("/usr/bin/python3", &["-c", "import grpc"]),
            Self::Chromium => host::finds("chromium") && host::finds("chromedriver"),
            Self::CargoDeb => host::finds("cargo-deb"),
            Self::CargoAbout => host::finds("cargo-about"),
            Self::CargoCyclonedx => host::finds("cargo-cyclonedx"),
            Self::Dpkg => host::finds("dpkg-deb"),
            Self::Shellcheck => host::finds("shellcheck"),
            Self::CrossAmd64 => host::finds("x86_64-linux-gnu-gcc"),
            Self::CrossArm64 => host::finds("aarch64-linux-gnu-gcc"),
            Self::QemuUser => {
                host::finds("qemu-x86_64-static") && host::finds("qemu-aarch64-static")
            }
        }
    }

    /// The Debian packages it comes from, or is built with.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::BpfCompiler => &["rustc-web", "libstd-rust-web-dev-bpf"],
            Self::BpfLinker => &["llvm-22-dev", "libpolly-22-dev"],
            Self::Ip => &["iproute2"],
            Self::Prometheus => &["prometheus"],
            // Its BIOS and the code that boots a kernel directly.
            Self::Qemu => &["qemu-system-x86", "seabios"],
            Self::Cpio => &["cpio"],
            Self::Kmod => &["kmod"],
            Self::Debian => &["mmdebstrap", "e2fsprogs", "dpkg"],
            Self::QemuArm => &["qemu-system-arm"],
            Self::BpfClippy => &["rust-web-clippy"],
            Self::CargoFuzz => &["g++"],
            Self::Proxies => &["nginx", "libnginx-mod-stream", "haproxy", "stunnel4"],
            Self::LoadTools => &["wrk", "iperf3"],
            Self::Tcpdump => &["tcpdump"],
            Self::Openssl => &["openssl"],
            Self::Tmux => &["tmux"],
            Self::SystemdAnalyze => &["systemd"],
            Self::Web => &["nginx", "wrk", "curl"],
            Self::Grpc => &["python3-grpcio"],
            // The fonts that text needs to have a width.
            Self::Chromium => &["chromium", "chromium-driver", "fonts-dejavu-core"],
            Self::Dpkg => &["dpkg"],
            Self::Shellcheck => &["shellcheck"],
            Self::CrossAmd64 => &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            Self::CrossArm64 => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            Self::QemuUser => &["qemu-user-static"],
            Self::Rustfmt
            | Self::Clippy
            | Self::CargoDeny
            | Self::CargoDeb
            | Self::CargoAbout
            | Self::CargoCyclonedx => &[],
        }
    }

    /// The services that its packages would start.
    pub(crate) fn services(self) -> &'static [&'static str] {
        match self {
            Self::Prometheus => &["prometheus"],
            Self::Web => &["nginx"],
            Self::Proxies => &["nginx", "haproxy", "stunnel.target"],
            Self::LoadTools => &["iperf3"],
            _ => &[],
        }
    }

    /// The shell command that gets it, once its packages are there.
    pub(crate) fn command(self, debian: bool) -> Option<&'static str> {
        match (self, debian) {
            (Self::BpfLinker, true) => Some(
                "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
                 --no-default-features --features llvm-22",
            ),
            (Self::BpfLinker, false) => {
                Some("cargo install bpf-linker --version 0.13.0 --locked # needs LLVM 23 to build")
            }
            (Self::Rustfmt, _) => Some("rustup component add rustfmt"),
            (Self::Clippy, _) => Some("rustup component add clippy"),
            (Self::CargoDeny, _) => Some("cargo install cargo-deny --version 0.20.2 --locked"),
            // With the compressor it is built with, not the machine's: packages are to be the same.
            (Self::CargoDeb, _) => {
                Some("cargo install cargo-deb --version 3.8.0 --locked --features static-lzma")
            }
            (Self::CargoAbout, _) => {
                Some("cargo install cargo-about --version 0.9.3 --locked --features cli")
            }
            (Self::CargoCyclonedx, _) => {
                Some("cargo install cargo-cyclonedx --version 0.5.9 --locked")
            }
            (Self::CargoFuzz, _) => Some("cargo install cargo-fuzz --version 0.13.2 --locked"),
            (Self::BpfCompiler, false) => {
                Some("rustup toolchain install nightly --component rust-src")
            }
            (Self::BpfClippy, false) => Some("rustup component add clippy --toolchain nightly"),
            (Self::Ip, false) => Some("# put ip, from iproute2, on PATH"),
            (Self::Prometheus, false) => Some("# put prometheus and promtool on PATH"),
            (Self::Qemu, false) => Some("# put qemu-system-x86_64 on PATH"),
            (Self::Cpio, false) => Some("# put cpio on PATH"),
            (Self::Proxies, false) => Some(
                "# put nginx (with Debian's path of its stream module), haproxy and stunnel4 on PATH",
            ),
            (Self::Tcpdump, false) => Some("# put tcpdump on PATH"),
            (Self::Openssl, false) => Some("# put openssl on PATH"),
            (Self::SystemdAnalyze, false) => Some("# put systemd-analyze on PATH"),
            (Self::Tmux, false) => Some("# put tmux on PATH"),
            (Self::Web, false) => Some("# put nginx, wrk and curl on PATH"),
            (Self::Grpc, false) => Some("# let /usr/bin/python3 import grpc"),
            (Self::Chromium, false) => Some("# put chromium and its chromedriver on PATH"),
            (Self::LoadTools, false) => Some("# put wrk and iperf3 on PATH"),
            (Self::Dpkg, false) => Some("# put dpkg-deb on PATH"),
            (Self::Shellcheck, false) => Some("# put shellcheck on PATH"),
            (Self::CrossAmd64, false) => {
                Some("# put x86_64-linux-gnu-gcc, with a static libc, on PATH")
            }
            (Self::CrossArm64, false) => {
                Some("# put aarch64-linux-gnu-gcc, with a static libc, on PATH")
            }
            (Self::QemuUser, false) => {
                Some("# put qemu-x86_64-static and qemu-aarch64-static on PATH")
            }
            (Self::QemuArm, false) => Some("# put qemu-system-aarch64 on PATH"),
            (Self::Debian, false) => Some("# put mmdebstrap, mkfs.ext4 and dpkg-deb on PATH"),
            (Self::Kmod, false) => Some("# put depmod and modprobe, from kmod, on PATH"),
            (_, true) => None,
        }
    }
}

/// The compiler that the agent's build script will choose.
pub(crate) enum BpfCompiler {
    /// A rustc that ships `core` for the BPF target.
    Ready(String),
    /// Rustup's nightly with rust-src.
    Nightly,
}

impl BpfCompiler {
    pub(crate) fn find() -> Option<Self> {
        let chosen = env::var("MESH_BPF_RUSTC").unwrap_or_else(|_| "/usr/bin/rustc".to_owned());
        if has_core(&chosen) {
            return Some(Self::Ready(chosen));
        }
        let sysroot = host::output("rustup", &["run", "nightly", "rustc", "--print", "sysroot"])?;
        let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
        core.exists().then_some(Self::Nightly)
    }

    fn has_clippy(&self) -> bool {
        match self {
            Self::Ready(rustc) => Path::new(rustc).with_file_name("clippy-driver").exists(),
            Self::Nightly => host::succeeds(
                "rustup",
                &["run", "nightly", "cargo", "clippy", "--version"],
            ),
        }
    }
}

fn has_core(rustc: &str) -> bool {
    let print = ["--target", BPF_TARGET, "--print", "target-libdir"];
    let directory = host::output(rustc, &print).and_then(|path| fs::read_dir(path).ok());
    directory.is_some_and(|files| {
        let mut names = files.flatten().map(|file| file.file_name());
        names.any(|name| name.to_string_lossy().starts_with("libcore-"))
    })
}

/// Where Debian has what makes nginx a TCP proxy.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";
