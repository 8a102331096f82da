//! Old names of options. A hidden alias is one: it is understood for one release, with a warning that tells the new name.

use clap::ArgMatches;
use std::ffi::OsString;

/// Hidden flags that an option with a value has taken the place of.
const FLAGS: [(&str, &str); 1] = [("stream", "weights stream")];

/// Warns of each old name among the words that were typed. What was typed has been parsed: a word that is an old name is
/// an option.
pub fn warn(typed: &ArgMatches, words: impl Iterator<Item = OsString>) {
    let (_, command) = crate::subcommand(typed);
    let words = words.map(|word| word.to_string_lossy().into_owned()).take_while(|word| word != "--");
    let options: Vec<String> =
        words.filter_map(|w| w.split('=').next()?.strip_prefix("--").map(str::to_owned)).collect();
    let aliases = command.get_arguments().flat_map(|argument| {
        let new = argument.get_long().unwrap_or_default();
        argument.get_all_aliases().unwrap_or_default().into_iter().map(move |old| (old, new))
    });
    let flags = FLAGS.into_iter().filter(|(old, _)| command.get_arguments().any(|a| a.get_long() == Some(*old)));
    for (old, new) in aliases.chain(flags) {
        if options.iter().any(|option| option == old) {
            tracing::warn!("--{old} is called --{new} now; the old name is understood for one more release");
        }
    }
}
