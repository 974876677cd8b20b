import ArgumentParser

/// The daemon's configuration file, which every command reads that takes some of the daemon's flags. It is read before the
/// command line is taken apart (`FlagArguments`); here it stands for help, manual pages and completion.
struct ConfigurationFileFlag: ParsableArguments {
    @Option(
        help: ArgumentHelp("File with flags that the command line lacks.", valueName: "file"),
        completion: .file())
    var config: String?
}
