import ArgumentParser

/// `twilld completion`: the script that completes command lines.
struct Completion: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completion",
        abstract: "Print the script by which a shell completes twilld's command lines.",
        discussion: """
            Packages install it. By hand: source <(twilld completion bash) in ~/.bashrc; \
            twilld completion zsh >DIRECTORY/_twilld with a directory of $fpath; \
            twilld completion fish >~/.config/fish/completions/twilld.fish
            """)

    /// A shell that ArgumentParser has scripts for.
    enum Shell: String, CaseIterable, ExpressibleByArgument {
        case bash, zsh, fish
    }

    @Argument(help: "bash, zsh or fish.")
    var shell: Shell

    func run() { print(shell.script) }
}

extension Completion.Shell {
    /// ArgumentParser's script, and what it does not know: `run` may be left out before flags, and in bash flags are
    /// written in Go's style, with one dash and with `=`.
    var script: String {
        switch self {
        case .bash:
            Twilld.completionScript(for: .bash)
                + Self.bashAddition.replacing(
                    "BOOLEANS",
                    with: Run.flags.filter { $0.kind == .boolean }.map(\.name).joined(separator: " "))
        case .fish: Twilld.completionScript(for: .fish) + Self.fishAddition
        case .zsh:
            // The script ends with a call, which must reach the addition.
            Twilld.completionScript(for: .zsh).replacing(Self.zshEnd, with: Self.zshAddition + Self.zshEnd)
        }
    }

    /// The generated function is called with the words of the command line in the one form that it reads.
    private static let bashAddition = #"""


        _twilld_in_go_style() {
            local -a given=("${COMP_WORDS[@]}") words=("${COMP_WORDS[0]}")
            local -i index current=0
            [[ "${given[1]}" != -* ]] || words+=(run)
            for ((index = 1; index < ${#given[@]}; index++)); do
                local word="${given[index]}"
                if [[ "${word}" = '=' ]]; then
                    # `--iface=` with the cursor behind it: the value begins there.
                    ((index == COMP_CWORD)) && word='' || continue
                fi
                [[ "${word}" != -[!-]?* ]] || word="-${word}"
                words+=("${word}")
                if ((index < COMP_CWORD)) && [[ "${given[index + 1]}" != '=' && ' BOOLEANS ' == *" ${word#--} "* ]]; then
                    # A boolean stands alone, and takes none of what follows.
                    words+=(true)
                fi
                ((index != COMP_CWORD)) || current=$((${#words[@]} - 1))
            done
            local -a COMP_WORDS=("${words[@]}")
            local -i COMP_CWORD=current
            _twilld "${1}" "${words[current]}" "${words[current - 1]}"
        }

        complete -o filenames -F _twilld_in_go_style twilld
        """#

    private static let zshEnd = #"if [[ "${funcstack[1]}" = _twilld ]]; then"#

    private static let zshAddition = #"""
        functions -c _twilld _twilld_of_all_commands
        _twilld() {
            if [[ "${words[2]}" = -* ]]; then
                words=("${words[1]}" run "${(@)words[2,-1]}")
                ((CURRENT++))
            fi
            _twilld_of_all_commands "${@}"
        }


        """#

    private static let fishAddition = #"""

        functions -e __twilld_given_tokens
        functions -c __twilld_tokens __twilld_given_tokens
        function __twilld_tokens
            set -l tokens (__twilld_given_tokens $argv)
            set -l second $tokens[2] (commandline -t)
            if test "$argv" = -pc; and string match -q -- '-*' $second[1]
                set tokens $tokens[1] run $tokens[2..]
            end
            string join \n -- $tokens
        end
        """#
}
