//! What the package says about the program, and how the program stands right after its
//! installation.
//!
//! Manual pages and completions are made from the command line and from the sample configuration, and kept in
//! `packaging/generated`, so that a package is built without compiling the program a second
//! time for the machine that builds it. `UPDATE=1 cargo test --test package` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::time::Duration;

use clap::Command;
use clap_complete::Shell;

const GENERATED: &str = "packaging/generated";

/// File name to content.
type Files = BTreeMap<String, String>;

#[test]
fn manual_pages_and_completions_are_those_of_the_program() {
    let mut files = Files::new();
    completions(&mut fieldgate::cli::command(), &mut files);
    let mut command = fieldgate::cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, &[], &mut files);
    files.insert("fieldgate.toml.5".into(), configuration_page());
    let directory = root().join(GENERATED);
    if std::env::var_os("UPDATE").is_some() {
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in &files {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }
    let kept: Files = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into(), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&kept), names(&files), "{HELP}");
    for (name, text) in &files {
        assert!(kept[name] == *text, "{GENERATED}/{name} is not what the program says; {HELP}");
    }
}

#[test]
fn the_package_knows_which_stores_the_program_reads() {
    let script = std::fs::read_to_string(root().join("packaging/debian/fieldgate.preinst")).unwrap();
    let known = format!("known={}", fieldgate::store::schema::VERSION);
    assert!(script.lines().any(|line| line == known), "packaging/debian/fieldgate.preinst must say {known}");
}

const HELP: &str = "run: UPDATE=1 cargo test --test package";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn completions(command: &mut Command, files: &mut Files) {
    for (shell, name) in
        [(Shell::Bash, "fieldgate.bash"), (Shell::Zsh, "_fieldgate"), (Shell::Fish, "fieldgate.fish")]
    {
        let mut text = Vec::new();
        clap_complete::generate(shell, command, "fieldgate", &mut text);
        files.insert(name.into(), String::from_utf8(text).unwrap());
    }
}

const FILES: &str = r".SH FILES
.TP
.I /etc/fieldgate/fieldgate.toml
the configuration, see
.BR fieldgate.toml (5)
.TP
.I /etc/fieldgate/conf.d/*.toml
parts of it, which updates of the package never touch
.TP
.I /usr/share/fieldgate/models
device models; own ones belong in
.I /etc/fieldgate/models
.TP
.I /var/lib/fieldgate
readings, shadows, keys and certificates
.SH SEE ALSO
.BR fieldgate.toml (5),
.BR systemctl (1),
.BR journalctl (1)
";

/// A page for the command and one for each below it: `fieldgate-shadow-get.8`.
fn pages(command: &Command, above: &[&str], files: &mut Files) {
    let name: Vec<&str> = above.iter().copied().chain([command.get_name()]).collect();
    let title = name.join("-");
    // clap keeps names for ever, and a test lives for a second.
    let page = command.clone().name(&*title.clone().leak());
    let man = clap_mangen::Man::new(page)
        .title(title.to_uppercase())
        .section("8")
        // Without a date the page changes with the program only.
        .date("")
        .source("fieldgate")
        .manual("fieldgate");
    let mut text = Vec::new();
    man.render(&mut text).unwrap();
    let mut text = String::from_utf8(text).unwrap();
    // An empty date has to be written, or the next word is taken for it.
    text = text.replacen(
        &format!("{} 8  ", title.to_uppercase()),
        &format!("{} 8 \"\" ", title.to_uppercase()),
        1,
    );
    if let Some((page, codes)) = text.split_once(".SH EXTRA\nExit codes:\n") {
        // The version is that of the package, and the page need not change with it.
        let codes = codes.split(".SH VERSION").next().unwrap_or_default().trim_end();
        text = format!("{page}.SH EXIT STATUS\n.nf\n{codes}\n.fi\n{FILES}");
    }
    files.insert(format!("{title}.8"), text);
    for below in command.get_subcommands() {
        pages(below, &name, files);
    }
}

/// The sample names every key with its default, and a test keeps it so: it is the reference.
fn configuration_page() -> String {
    let sample = std::fs::read_to_string(root().join("config/fieldgate.toml")).unwrap();
    let sample = sample.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let lines = sample
        .lines()
        .map(|line| if line.starts_with('.') { format!("\\&{line}\n") } else { format!("{line}\n") });
    format!(
        r#".TH FIELDGATE.TOML 5 "" "fieldgate" "fieldgate"
.SH NAME
fieldgate.toml \- configuration of the edge agent fieldgate
.SH SYNOPSIS
.I /etc/fieldgate/fieldgate.toml
.br
.I /etc/fieldgate/conf.d/*.toml
.SH DESCRIPTION
The configuration is TOML.
What follows is the commented sample with every key and its default, as
.B fieldgate config \-\-default
prints it.
.PP
.B fieldgate check
names every mistake at once and opens nothing;
.B systemctl reload fieldgate
applies a changed configuration, and refuses a wrong one.
.SH KEYS
.nf
{}.fi
.SH FILES
.TP
.I /etc/fieldgate/models/NAME.toml
device models of this plant; they are found before those of the package
.TP
.I /usr/share/fieldgate/models/NAME.toml
device models of the package
.TP
.I /var/lib/fieldgate
readings, shadows, keys and certificates; of the service alone
.SH SEE ALSO
.BR fieldgate (8)
"#,
        lines.collect::<String>()
    )
}

/// The configuration that the package installs.
fn shipped() -> String {
    std::fs::read_to_string(root().join("packaging/fieldgate.toml")).unwrap()
}

fn fieldgate(config: &Path, verb: &str) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_fieldgate"));
    process.arg("--config").arg(config).arg(verb).env_remove("NOTIFY_SOCKET");
    process
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_shipped_configuration_is_right_and_so_are_its_examples() {
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str, expected: &str| {
        let file = directory.path().join("fieldgate.toml");
        std::fs::write(&file, text).unwrap();
        let output = fieldgate(&file, "check").output().unwrap();
        assert!(output.status.success() && said(&output).contains(expected), "{}", said(&output));
    };
    let text = shipped();
    check(&text, "ok: 0 buses, 0 devices, 0 points, 0 warnings");
    // As a technician would: the sign of the comment is taken away from the examples.
    let (head, examples) = text.split_once("# [[bus]]").unwrap();
    let examples = examples.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    let is_toml = |line: &&str| line.starts_with("[[") || line.contains(" = ");
    let examples = examples.filter(is_toml).collect::<Vec<_>>().join("\n");
    check(&format!("{head}[[bus]]\n{examples}\n"), "ok: 2 buses, 2 devices, ");
}

/// A service that ends again and again would be the first thing to see after `apt install`.
#[test]
fn as_installed_the_agent_runs_answers_and_stops_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("fieldgate.toml");
    let socket = directory.path().join("status.sock");
    let store = directory.path().join("fieldgate.db");
    let text = shipped().replace("[uplink]", &format!("status_socket = {socket:?}\n[uplink]"));
    std::fs::write(&file, format!("{text}\n[store]\npath = {store:?}\n")).unwrap();
    let mut agent = fieldgate(&file, "run").spawn().unwrap();
    let mut last = String::new();
    let answered = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let output = fieldgate(&file, "status").output().unwrap();
        last = said(&output);
        output.status.success() || agent.try_wait().unwrap().is_some()
    });
    assert!(answered, "{last}");
    Process::new("kill").arg(agent.id().to_string()).status().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{last}");
}
