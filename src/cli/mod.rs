//! One file per verb. Each prints for people, and with `--json` for programs.

pub mod check;
pub mod decode;
pub mod demo;
pub mod outbox;
pub mod plan;
pub mod read;
pub mod run;
pub mod show_config;
pub mod status;

pub fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let config = match crate::config::load::load(Some(std::path::Path::new(&args[3]))) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e}");
            return 64.into();
        }
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let rt =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build().unwrap();
    rt.block_on(async {
        let app = crate::app::App::build(config).unwrap();
        let r = app.run(Default::default()).await;
        eprintln!("{r:?}");
    });
    0.into()
}
