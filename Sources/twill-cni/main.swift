import CNI
import Glibc

exit(PluginProgram.run(CommandLine.arguments))
