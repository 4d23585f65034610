# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_fieldgate_global_optspecs
    string join \n c/config= json h/help V/version
end

function __fish_fieldgate_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_fieldgate_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_fieldgate_using_subcommand
    set -l cmd (__fish_fieldgate_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c fieldgate -n "__fish_fieldgate_needs_command" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_needs_command" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -s V -l version -d 'Print version'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "run" -d 'Run the agent until it is told to stop'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "check" -d 'Check the configuration and name every mistake; opens nothing'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "config" -d 'Print the configuration as the agent would see it'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "plan" -d 'Print the requests per bus before going live: bytes, wire time, load'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "decode" -d 'Say what registers mean in a type and order; without a type: in every plausible one'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "read" -d 'Read one point or address now'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "outbox" -d 'Show what waits in the store, since when, and what was lost on the way'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "shadow" -d 'Read and change shadows through the running agent'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "audit" -d 'Show the log of writes and whether it is intact'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "status" -d 'Show how the running agent does'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "reload" -d 'Let the running agent read its configuration again; a wrong one changes nothing'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "identity" -d 'Keys and certificates of the things, and the gateway\'s own CA'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "demo" -d 'Show it all at work with simulated devices and a cloud inside this process'
complete -c fieldgate -n "__fish_fieldgate_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand run" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand check" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand config" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand config" -l default -d 'The commented sample with every option and its default instead'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand config" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand config" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand plan" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand plan" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand plan" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l type -d 'Type, as in the configuration (`float32`). Without: every type that fits' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l order -d 'Byte order as it arrives, for instance ABCD or CDAB [default: ABCD]' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l scale -d 'Multiply by this' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l offset -d 'Add this after scaling' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l decimals -d 'Round to this many digits after the point' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l bit -d 'The bit of type bit; the first bit of type bitfield. 0 is the least significant' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l length -d 'How many bits type bitfield has' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l string-bytes -d 'Which bytes of each register are characters: both, low or high' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l expect -d 'The value that the device\'s display shows: ranks the types that come nearest' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l decimal -d 'The registers are decimal numbers, 0 to 65535, one per argument'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -l json -d 'JSON out; without registers also JSON in, a question per line on standard input'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand decode" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l bus -d 'A bus of the configuration' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l unit -d 'Unit id of the device on that bus' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l table -d 'coil, discrete, holding or input' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l address -d 'As it goes over the wire, from 0' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l type -d 'As in the configuration, for instance float32' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l order -d 'Byte order, for instance CDAB; without: big-endian' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l registers -d 'Length of a string or of bytes' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l bit -d 'Of type bit; 0 is the least significant' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l scale -d 'Multiply with this' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand read" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand outbox" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand outbox" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand outbox" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -f -a "get" -d 'Print a shadow with its delta, metadata and version'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -f -a "update" -d 'Change a shadow; the document is what a client would publish: {"state":{"desired":{...}}}'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -f -a "delete" -d 'Delete a shadow; its numbering goes on if it is made anew'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -f -a "list" -d 'Print the names of a thing\'s named shadows'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and not __fish_seen_subcommand_from get update delete list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from get" -l name -d 'A named shadow instead of the classic one' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from get" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from get" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from get" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from update" -l name -d 'A named shadow instead of the classic one' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from update" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from update" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from update" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from delete" -l name -d 'A named shadow instead of the classic one' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from delete" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from delete" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from delete" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from list" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from help" -f -a "get" -d 'Print a shadow with its delta, metadata and version'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from help" -f -a "update" -d 'Change a shadow; the document is what a client would publish: {"state":{"desired":{...}}}'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from help" -f -a "delete" -d 'Delete a shadow; its numbering goes on if it is made anew'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from help" -f -a "list" -d 'Print the names of a thing\'s named shadows'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand shadow; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "verify" -d 'Follow the chain of hashes from the first entry to the last'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "show" -d 'Print the newest entries'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and not __fish_seen_subcommand_from verify show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from verify" -l head -d 'The head that an earlier call printed: finds out whether entries went missing since' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from verify" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from verify" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from show" -s n -l entries -d 'How many' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from show" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from show" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Follow the chain of hashes from the first entry to the last'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print the newest entries'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand audit; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand status" -l socket -d 'The agent\'s socket; without: the one of the configuration' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand status" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand status" -l watch -d 'Draw it again every second until interrupted'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand status" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand status" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand reload" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand reload" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand reload" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "list" -d 'Every thing with its certificate: who, until when, what is next'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "show" -d 'All about one thing\'s certificates'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "renew" -d 'Tell the running agent to get a new key and certificate before it is due'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "export-csr" -d 'Print the certificate request; makes the key if there is none waiting'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "import" -d 'Take the chain that was made of the request; the next connection proves it'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "ca" -d 'The gateway\'s own CA: print its certificates, or one of the options'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "revoke" -d 'Put a thing\'s certificates on the revocation list and forget them; without THING print the list'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "approve" -d 'Say that the device behind this thing is the right one'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and not __fish_seen_subcommand_from list show renew export-csr import ca revoke approve help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from list" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from list" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from show" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from show" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from renew" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from renew" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from renew" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from export-csr" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from export-csr" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from export-csr" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from import" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from import" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from import" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l proof -d 'Print the certificate that proves to the cloud that the CA\'s key is here' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l proof-next -d 'The same for the next CA' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l create -d 'Make the CA now instead of at the first certificate'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l prepare -d 'Make the next CA, which signs nothing yet, and print all'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l switch -d 'From now on the next CA signs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from ca" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from revoke" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from revoke" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from approve" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from approve" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from approve" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "list" -d 'Every thing with its certificate: who, until when, what is next'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "show" -d 'All about one thing\'s certificates'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "renew" -d 'Tell the running agent to get a new key and certificate before it is due'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "export-csr" -d 'Print the certificate request; makes the key if there is none waiting'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "import" -d 'Take the chain that was made of the request; the next connection proves it'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "ca" -d 'The gateway\'s own CA: print its certificates, or one of the options'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "revoke" -d 'Put a thing\'s certificates on the revocation list and forget them; without THING print the list'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "approve" -d 'Say that the device behind this thing is the right one'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand identity; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -l seconds -d 'How long it takes, about a third of it without the cloud' -r
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -s c -l config -d 'The configuration; without: /etc/fieldgate/fieldgate.toml and conf.d beside it' -r -F
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -l json -d 'Answer in JSON, for programs'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand demo" -s h -l help -d 'Print help'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "run" -d 'Run the agent until it is told to stop'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "check" -d 'Check the configuration and name every mistake; opens nothing'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "config" -d 'Print the configuration as the agent would see it'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "plan" -d 'Print the requests per bus before going live: bytes, wire time, load'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "decode" -d 'Say what registers mean in a type and order; without a type: in every plausible one'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "read" -d 'Read one point or address now'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "outbox" -d 'Show what waits in the store, since when, and what was lost on the way'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "shadow" -d 'Read and change shadows through the running agent'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "audit" -d 'Show the log of writes and whether it is intact'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "status" -d 'Show how the running agent does'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "reload" -d 'Let the running agent read its configuration again; a wrong one changes nothing'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "identity" -d 'Keys and certificates of the things, and the gateway\'s own CA'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "demo" -d 'Show it all at work with simulated devices and a cloud inside this process'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and not __fish_seen_subcommand_from run check config plan decode read outbox shadow audit status reload identity demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from shadow" -f -a "get" -d 'Print a shadow with its delta, metadata and version'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from shadow" -f -a "update" -d 'Change a shadow; the document is what a client would publish: {"state":{"desired":{...}}}'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from shadow" -f -a "delete" -d 'Delete a shadow; its numbering goes on if it is made anew'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from shadow" -f -a "list" -d 'Print the names of a thing\'s named shadows'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "verify" -d 'Follow the chain of hashes from the first entry to the last'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from audit" -f -a "show" -d 'Print the newest entries'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "list" -d 'Every thing with its certificate: who, until when, what is next'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "show" -d 'All about one thing\'s certificates'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "renew" -d 'Tell the running agent to get a new key and certificate before it is due'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "export-csr" -d 'Print the certificate request; makes the key if there is none waiting'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "import" -d 'Take the chain that was made of the request; the next connection proves it'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "ca" -d 'The gateway\'s own CA: print its certificates, or one of the options'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "revoke" -d 'Put a thing\'s certificates on the revocation list and forget them; without THING print the list'
complete -c fieldgate -n "__fish_fieldgate_using_subcommand help; and __fish_seen_subcommand_from identity" -f -a "approve" -d 'Say that the device behind this thing is the right one'
