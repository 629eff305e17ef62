//! Files that are nearly always valid TOML and often a valid policy: what random bytes seldom
//! are.

use std::fmt::Write as _;

use arbitrary::Arbitrary;

/// A set of files.
#[derive(Arbitrary, Debug)]
pub struct Files {
    default: Option<bool>,
    range: Option<u8>,
    nodes: bool,
    services: Vec<Service>,
    splits: Vec<Split>,
    /// Rules.
    pub rules: Vec<Rule>,
}

#[derive(Arbitrary, Debug)]
struct Service {
    namespace: u8,
    vip: Option<u8>,
    ports: Vec<(u8, u8)>,
    workload: Option<(u8, u8)>,
    egress: Option<bool>,
    affinity: Option<u8>,
    endpoints: Vec<Endpoint>,
}

#[derive(Arbitrary, Debug)]
struct Endpoint {
    host: u8,
    port: u8,
    version: Option<u8>,
    node: Option<bool>,
    weight: Option<u8>,
    of: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Split {
    service: u8,
    from: Vec<u8>,
    weights: [u8; 3],
}

/// A rule.
#[derive(Arbitrary, Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    deny: bool,
    audit: Option<bool>,
    from: Vec<u8>,
    to: Vec<u8>,
    ports: Vec<u8>,
    lines: u8,
}

const NAMESPACES: [&str; 3] = ["shop", "dev", "default"];
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "http", "grpc"];

/// Most of each that is written.
const MOST: usize = 6;

fn pick<T: Copy>(from: &[T], which: u8) -> T {
    from[usize::from(which) % from.len()]
}

impl Files {
    /// The file that holds all but rules.
    pub fn declarations(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("strings take anything");
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        text.push_str("[mesh]\n");
        if let Some(deny) = self.default {
            writeln!(
                text,
                "default = \"{}\"",
                if deny { "deny" } else { "allow" }
            )?;
        }
        if let Some(range) = self.range {
            writeln!(
                text,
                "vip_range = \"10.96.{}.0/{}\"",
                range & 0xf0,
                20 + range % 5
            )?;
        }
        if self.nodes {
            text.push_str("[[node]]\nname = \"edge-2\"\naddress = \"10.0.0.12\"\n");
        }
        for (number, service) in self.services.iter().take(MOST).enumerate() {
            service.write(number, text)?;
        }
        for split in self.splits.iter().take(MOST) {
            split.write(self, text)?;
        }
        Ok(())
    }

    fn service(&self, which: u8) -> String {
        let count = self.services.len().clamp(1, MOST);
        let number = usize::from(which) % count;
        let namespace = self
            .services
            .get(number)
            .map_or(0, |service| service.namespace);
        format!("{}/s{number}", pick(&NAMESPACES, namespace))
    }

    fn source(&self, which: u8) -> String {
        match which % 16 {
            0 => "\"*\"".into(),
            1 => "\"host\"".into(),
            2 | 3 => format!("\"{}/*\"", pick(&NAMESPACES, which >> 4)),
            4 => format!("{{ cidr = \"192.168.{}.0/24\" }}", which >> 4),
            5 => "{ node = \"edge-2\" }".into(),
            _ => format!("\"{}\"", self.service(which >> 2)),
        }
    }

    fn target(&self, which: u8) -> String {
        match which % 16 {
            0 | 1 => format!("\"{}/*\"", pick(&NAMESPACES, which >> 4)),
            2 => format!("{{ cidr = \"192.0.{}.0/24\" }}", which >> 4),
            _ => format!("\"{}\"", self.service(which >> 2)),
        }
    }

    /// A file of `rules`, the first of which has the number `first`.
    pub fn rules(&self, first: usize, rules: &[Rule]) -> String {
        let numbered = (first..).zip(rules);
        numbered
            .map(|(number, rule)| rule.text(self, number))
            .collect()
    }
}

impl Service {
    fn write(&self, number: usize, text: &mut String) -> std::fmt::Result {
        let namespace = pick(&NAMESPACES, self.namespace);
        writeln!(
            text,
            "[[service]]\nname = \"s{number}\"\nnamespace = \"{namespace}\""
        )?;
        if let Some(vip) = self.vip {
            writeln!(text, "vip = \"10.96.0.{vip}\"")?;
        }
        let ports = self.ports.iter().take(3).map(|(listen, protocol)| {
            let (name, protocol) = (listen % 4, pick(&PROTOCOLS, *protocol));
            format!(
                "{{ name = \"p{name}\", listen = {}, protocol = \"{protocol}\" }}",
                80 + listen % 8
            )
        });
        writeln!(text, "ports = [{}]", ports.collect::<Vec<_>>().join(", "))?;
        match self.workload {
            Some((0..=2, uid)) => {
                writeln!(text, "workload = {{ uid = {} }}", 1000 + u32::from(uid))?
            }
            Some((3..=5, path)) => writeln!(
                text,
                "workload = {{ cgroup = \"/m.slice/{path}-*.scope\" }}"
            )?,
            Some((_, unit)) => writeln!(text, "workload = {{ systemd = \"u{unit}?.service\" }}")?,
            None => {}
        }
        if let Some(deny) = self.egress {
            writeln!(text, "egress = \"{}\"", if deny { "deny" } else { "allow" })?;
        }
        if let Some(minutes) = self.affinity {
            writeln!(
                text,
                "affinity = \"client\"\naffinity_timeout = \"{minutes}m\""
            )?;
        }
        let endpoints = self.endpoints.iter().take(4).map(Endpoint::text);
        writeln!(
            text,
            "endpoints = [{}]",
            endpoints.collect::<Vec<_>>().join(", ")
        )
    }
}

impl Endpoint {
    fn text(&self) -> String {
        let hosts = [
            "127.0.0.1",
            "10.0.0.11",
            "10.0.0.12",
            "[::1]",
            "[fd00::9]",
            "192.0.2.1",
        ];
        let address = format!(
            "{}:{}",
            pick(&hosts, self.host),
            8000 + u32::from(self.port)
        );
        let fields = [
            Some(format!("address = \"{address}\"")),
            self.version
                .map(|version| format!("version = \"v{}\"", version % 3)),
            self.node
                .map(|far| format!("node = \"edge-{}\"", if far { 2 } else { 1 })),
            self.weight.map(|weight| format!("weight = {weight}")),
            self.of.map(|port| format!("port = \"p{}\"", port % 4)),
        ];
        format!(
            "{{ {} }}",
            fields.into_iter().flatten().collect::<Vec<_>>().join(", ")
        )
    }
}

impl Split {
    fn write(&self, files: &Files, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "[[split]]\nservice = \"{}\"",
            files.service(self.service)
        )?;
        if !self.from.is_empty() {
            let from = self.from.iter().take(3).map(|which| files.source(*which));
            writeln!(text, "from = [{}]", from.collect::<Vec<_>>().join(", "))?;
        }
        let [a, b, c] = self.weights;
        writeln!(text, "weights = {{ v0 = {a}, v1 = {b}, v2 = {c} }}")
    }
}

impl Rule {
    fn text(&self, files: &Files, number: usize) -> String {
        let kind = if self.deny { "deny" } else { "allow" };
        let list = |items: Vec<String>| items.join(", ");
        let from = self.from.iter().take(3).map(|which| files.source(*which));
        let to = self.to.iter().take(3).map(|which| files.target(*which));
        let ports = self.ports.iter().take(2).map(|port| match port % 2 {
            0 => format!("\"p{}\"", port / 2 % 4),
            _ => (80 + port / 2 % 8).to_string(),
        });
        let mode = match self.audit {
            Some(true) => "mode = \"audit\"\n",
            Some(false) => "mode = \"enforce\"\n",
            None => "",
        };
        let space = pick(&["", "\n", "# why\n", "\r\n"], self.lines);
        format!(
            "[[{kind}]]\nname = \"r{number}\"\nfrom = [{}]\nto = [{}]\nports = [{}]\n{mode}{space}",
            list(from.collect()),
            list(to.collect()),
            list(ports.collect()),
        )
    }
}
