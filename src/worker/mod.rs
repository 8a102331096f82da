//! What comes with a checkpoint and is run rather than read, its tokenizer and its chat template, in a process of its
//! own; and Parquet files of corpora.
//!
//! A kilobyte of regular expressions, normalizers or Jinja can ask for hours and for all memory, so can a page of Parquet
//! that claims to be long, and the libraries that run or read them cannot be told where to stop. So a child process does it, which the kernel ends where it takes more than its
//! input can need. The child is the same program, started with [`ARGUMENT`]: a program that uses this
//! library calls [`serve_if_asked`] first thing in its `main`. One that does not gets the same answers from a thread of
//! its own, without limits: it has to trust the checkpoints it opens.
//!
//! Linux limits memory and processor time, other Unixes processor time alone. Elsewhere the child only keeps a crash
//! from being the program's.

mod job;
mod limits;
mod parquet;
pub(crate) mod spelling;
mod template;
mod tokenizer;

pub(crate) use job::{Request, Response};
pub use template::Turn;
pub(crate) use template::{Chat, Conditions, Date, Met, NoText};

use crate::error::{Error, Result};
use job::Job;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// The only argument of a program that is to serve as a child.
pub const ARGUMENT: &str = "--serve-untrusted";

/// What a child sees of the environment: what the system needs to start a program.
const ENVIRONMENT: &[&str] = &["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SystemRoot"];

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Answers requests until there are no more, where this process was started for that: then there is nothing else to do.
/// Otherwise this program is what children are started from, from now on.
#[must_use = "a process that has served is done"]
pub fn serve_if_asked() -> Option<ExitCode> {
    if std::env::args_os().skip(1).eq([OsStr::new(ARGUMENT)]) {
        return Some(match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(2),
        });
    }
    // The program itself, also where its file was replaced meanwhile.
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        start_from(own);
    } else if let Ok(program) = std::env::current_exe() {
        start_from(program);
    }
    None
}

/// Children are started from `program`, which calls [`serve_if_asked`]. The first one named stays it.
pub fn start_from(program: impl Into<PathBuf>) {
    let _ = PROGRAM.set(program.into());
}

/// The child's side.
fn serve() -> std::io::Result<()> {
    let mut allowance = limits::Allowance::default();
    let (mut job, mut output) = (Job::default(), std::io::stdout().lock());
    let mut input = std::io::stdin().lock();
    loop {
        limits::Allowance::lift();
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let request: Request = serde_json::from_slice(&line)?;
        drop(line);
        allowance.extend(&request);
        allowance.apply();
        let mut answer = serde_json::to_vec(&job.answer(&request))?;
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
}

/// Answers requests about one file; the child starts with the first one.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The file that is run; problems name it.
    path: PathBuf,
    /// What to do where that fails.
    advice: &'static str,
    place: Mutex<Option<Place>>,
}

#[derive(Debug)]
enum Place {
    Child(Box<Process>),
    Here(Box<Job>),
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// None once there are no more requests.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    allowance: limits::Allowance,
}

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    Interrupted,
    /// Nothing that was asked is the cause.
    Ended(String),
    Problem(Cow<'static, str>),
}

impl Worker {
    pub fn new(path: impl Into<PathBuf>, advice: &'static str) -> Worker {
        Worker { path: path.into(), advice, place: Mutex::new(None) }
    }

    /// The answer to a request.
    ///
    /// # Errors
    /// The file is malformed or fails, or asks for more time or memory than its size warrants, or the child is ended from
    /// outside: then nothing more can be asked.
    pub fn ask(&self, request: &Request<'_>) -> Result<Response> {
        self.ask_until(None, request)
    }

    /// As [`Worker::ask`]; beyond `end` there is no answer, and the file takes too long.
    ///
    /// # Errors
    /// As [`Worker::ask`].
    pub fn ask_until(&self, end: Option<Instant>, request: &Request<'_>) -> Result<Response> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match place.as_mut() {
            Some(place) => place,
            None => place.insert(Place::new()?),
        };
        let answer = match place {
            Place::Child(process) => process.ask(request, end),
            Place::Here(job) => guarded(job, request),
        };
        match answer {
            Ok(Response::Failed(problem)) => Err(self.wrong(&problem)),
            Ok(response) => Ok(response),
            Err(Failure::Interrupted) => Err(Error::Interrupted),
            Err(Failure::Ended(problem)) => Err(Error::Ended { path: self.path.clone(), problem }),
            Err(Failure::Problem(problem)) => Err(self.wrong(&problem)),
        }
    }

    /// An answer to another question.
    pub fn astray(&self, response: &Response) -> Error {
        self.wrong(&format!("was answered for with {response:?}"))
    }

    /// What is wrong with the file.
    pub fn wrong(&self, problem: &str) -> Error {
        Error::file(&self.path, format!("{problem}; {}", self.advice))
    }
}

impl Place {
    fn new() -> Result<Place> {
        let Some(program) = PROGRAM.get() else { return Ok(Place::Here(Box::default())) };
        let mut command = Command::new(program);
        // What it runs is not to be trusted with tokens.
        command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.arg(ARGUMENT);
        Ok(Place::Child(Box::new(Process::start(&mut command)?)))
    }
}

impl Process {
    fn start(command: &mut Command) -> Result<Process> {
        let program = PathBuf::from(command.get_program());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(Error::io(&program))?;
        let no_pipe = || Error::file(&program, "was started without pipes");
        let requests = Some(child.stdin.take().ok_or_else(no_pipe)?);
        let answers = BufReader::new(child.stdout.take().ok_or_else(no_pipe)?);
        Ok(Process { child, requests, answers, allowance: limits::Allowance::default() })
    }

    fn ask(&mut self, request: &Request<'_>, end: Option<Instant>) -> std::result::Result<Response, Failure> {
        self.allowance.extend(request);
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let most = left.unwrap_or(Duration::MAX).min(self.allowance.wall());
        self.ask_within(request, most).map_err(|failure| match (failure, left) {
            (Failure::Ended(_), Some(left)) if left <= most && end.is_some_and(|end| Instant::now() >= end) => {
                Failure::Problem("takes too long".into())
            }
            (failure, _) => failure,
        })
    }

    /// A child that stands still takes no processor time: it has to be seen that it does.
    fn ask_within(&mut self, request: &Request<'_>, most: Duration) -> std::result::Result<Response, Failure> {
        let Process { child, requests, answers, .. } = self;
        let Some(requests) = requests else { return Err(self.end()) };
        let answered = std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            scope.spawn(move || tell.send(exchange(requests, answers, request)));
            let answered = told.recv_timeout(most);
            if answered.is_err() {
                // Which ends the thread, too.
                let _ = child.kill();
            }
            answered
        });
        match answered {
            Ok(Ok(Some(response))) => Ok(response),
            // It has ended: a broken pipe is no more than that.
            Ok(Ok(None) | Err(_)) => Err(self.end()),
            Err(_) => {
                self.end();
                let seconds = most.as_secs();
                Err(Failure::Ended(format!("the process that runs it stood still for {seconds} s and was ended")))
            }
        }
    }

    fn end(&mut self) -> Failure {
        self.requests = None;
        match self.child.wait() {
            Ok(status) => limits::reason(status, &self.allowance),
            Err(e) => Failure::Ended(format!("the process that runs it was lost: {e}")),
        }
    }
}

fn exchange(
    requests: &mut ChildStdin,
    answers: &mut impl BufRead,
    request: &Request<'_>,
) -> std::io::Result<Option<Response>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    requests.write_all(&line)?;
    requests.flush()?;
    let mut answer = Vec::new();
    answers.read_until(b'\n', &mut answer)?;
    Ok(if answer.is_empty() { None } else { Some(serde_json::from_slice(&answer)?) })
}

impl Drop for Process {
    fn drop(&mut self) {
        // It waits for requests: there is nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is said of a file on which a library panics.
const MALFORMED: &str = "is malformed: its parts contradict each other";

/// Threads of this name meet files that nobody has checked: whoever sets a panic hook may leave their panics to us.
pub const GUARDED_THREAD: &str = "achilles-audit-untrusted";

/// Answers where a panic becomes a problem.
fn guarded(job: &mut Job, request: &Request<'_>) -> std::result::Result<Response, Failure> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name(GUARDED_THREAD.into()).spawn_scoped(scope, || job.answer(request));
        let thread = thread.map_err(|e| Failure::Problem(format!("could not be given a thread: {e}").into()))?;
        thread.join().map_err(|_| Failure::Problem(MALFORMED.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where no program was named the answers are those of the library itself, and its panics are problems.
    #[test]
    fn a_panic_is_a_problem() {
        let worker = Worker::new("tokenizer.json", "fetch it again");
        let sound = include_str!("../../fixtures/tokenizer.json");
        let ids = Request::Ids { text: "The capital".into(), add_special_tokens: true };
        let told = |request| worker.ask(request).unwrap_err().to_string();
        assert_eq!(told(&ids), "tokenizer.json: was not read yet; fetch it again");
        assert!(matches!(worker.ask(&Request::Tokenizer(sound.into())), Ok(Response::Ready)));
        assert!(matches!(worker.ask(&ids), Ok(Response::Ids(ids)) if !ids.is_empty()));
        let mut contradicts: serde_json::Value = serde_json::from_str(sound).unwrap();
        contradicts["post_processor"] = serde_json::json!({"type": "TemplateProcessing", "special_tokens": {}, "single":
            [{"SpecialToken": {"id": "<nowhere>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}]});
        let read = worker.ask(&Request::Tokenizer(contradicts.to_string().into()));
        let problem = read.and_then(|_| worker.ask(&ids)).unwrap_err().to_string();
        assert_eq!(problem, "tokenizer.json: is malformed: its parts contradict each other; fetch it again");
    }

    /// Neither is said of the file that is run: it is no property of it.
    #[cfg(unix)]
    #[test]
    fn a_child_that_stands_still_or_is_killed_is_told_as_that() {
        let request = Request::Ids { text: "The capital".into(), add_special_tokens: true };
        let mut still = Process::start(Command::new("sleep").arg("600")).unwrap();
        let told = still.ask_within(&request, Duration::from_millis(50));
        assert!(matches!(&told, Err(Failure::Ended(why)) if why.contains("stood still")), "{told:?}");
        let mut killed = Process::start(Command::new("sleep").arg("600")).unwrap();
        killed.child.kill().unwrap();
        let told = killed.ask(&request, None);
        assert!(matches!(&told, Err(Failure::Ended(why)) if why.contains("KILL")), "{told:?}");
    }
}
