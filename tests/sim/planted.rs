//! The bugs that prove the checks.

/// A bug put into the world, to prove that the check for it bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    Nothing,
    /// The broker acknowledges what never reached it: a row is deleted too early.
    BrokerAcksUnseen,
    /// The broker loses what it acknowledged.
    BrokerForgets,
    BrokerReorders,
    /// A message that comes again has another value in it.
    BrokerRewrites,
    /// A reading is cut from a message.
    BrokerCutsShort,
    /// The broker is not there at the end.
    BrokerNeverComes,
    FaultsGetLost,
    /// A unit answers with the counter of another point.
    UnitMixesUpPoints,
    /// A unit gives the same count twice.
    UnitRepeatsItself,
    /// A value was handed out that the book does not know.
    BookMissesAValue,
    /// The book knows of an answer that was never given.
    BookInventsAnAnswer,
    /// The power cut takes commits back that were on the disk.
    CutTakesCommitsBack,
    /// An agent that starts from an empty store after each cut.
    CutTakesTheFile,
    /// A row is gone from the file that nobody counted.
    CutTakesARow,
    /// A world that is said to be calm and is not.
    CalmIsNone,
    /// From the calm on the register `set` of every unit shows 0.
    UnitForgets,
    /// The power cut takes an entry out of the audit log.
    CutTakesAnAuditEntry,
    /// The power cut takes the shadows' versions back.
    CutTakesVersions,
    /// The power cut takes away what is desired.
    CutTakesDesired,
    /// A unit is written twice by one command.
    CommandTwice,
    /// Writes that nobody wanted.
    BookInventsAWrite,
    /// A unit is written again when nobody wants that any more.
    BookRepeatsAWrite,
    /// Answers to requests and commands are lost for good.
    AnswersGetLost,
    /// The cloud's shadow service says accepted and forgets.
    ServiceForgets,
}
