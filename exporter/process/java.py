"""Names of Java programs. Called by names.py. Options: the `java` command's manual, JDK 21."""

import posixpath
import re

from zerospan.exporter.process.program import Program
from zerospan.exporter.process.text import base, beside, folder, stem, word, words

VALUES = words(
    """
    -cp -classpath --class-path -p --module-path --upgrade-module-path --add-modules --limit-modules
    --add-exports --add-opens --add-reads --patch-module --source --enable-native-access --describe-module -d
    --illegal-native-access --finalization -home -pidfile -outfile -errfile -user -procname -jvm -wait
    """
)
PROPERTIES = ("-Dotel.service.name=", "-Dspring.application.name=", "--spring.application.name=")
GENERIC = words(
    """
    main app application server service launcher bootstrap runner start starter boot cli jarlauncher
    warlauncher propertieslauncher quarkus-run root index run program startup loader launch api web daemon
    standalone
    """
)
DOMAINS = words(
    """
    com org net io de uk co eu dev ch fr edu gov cn
    """
)
LAUNCHERS = ("org.springframework.boot.loader.",)
PRODUCTS = {
    "kafka.Kafka": "kafka",
    "org.apache.zookeeper.server.quorum.QuorumPeerMain": "zookeeper",
    "org.apache.zookeeper.server.ZooKeeperServerMain": "zookeeper",
    "org.apache.catalina.startup.Bootstrap": "tomcat",
    "org.elasticsearch.bootstrap.Elasticsearch": "elasticsearch",
    "org.elasticsearch.server": "elasticsearch",
    "org.opensearch.bootstrap.OpenSearch": "opensearch",
    "org.apache.cassandra.service.CassandraDaemon": "cassandra",
    "org.jboss.modules.Main": "wildfly",
    "org.eclipse.jetty.start.Main": "jetty",
}
JARS = {"jboss-modules": "wildfly", "start": "jetty", "activemq": "activemq"}
VERSION = re.compile(r"(.+?)[-_]v?(\d+(?:\.\d+)*(?:[-.+][\w.+-]*)?)")


def target(p: Program) -> tuple[str, str]:
    """(kind, what is run): kind is "jar", "class", "module", "source" or "" if none is named."""
    i = 0
    while i < len(p.args):
        arg = p.args[i]
        i += 1
        value = p.args[i] if i < len(p.args) else ""
        if arg == "-jar":
            return ("jar", value) if value else ("", "")
        if arg in ("-m", "--module"):
            return "module", value
        if arg.startswith("--module="):
            return "module", arg[9:]
        if arg in VALUES:
            i += 1
        elif not arg.startswith(("-", "@")):
            return ("source" if arg.endswith(".java") else "class"), arg
    return "", ""


def jar(p: Program) -> tuple[str, str]:
    """(name, version) of the jar that is run: shop-1.2.3.jar is ("shop", "1.2.3"); "" where there is none."""
    kind, what = target(p)
    if kind != "jar":
        return "", ""
    found = stem(what)
    match = VERSION.fullmatch(found)
    return (match[1], match[2]) if match else (found, "")


def stated(p: Program) -> str:
    """A name that was given to the application on its command line, else ""."""
    for start in PROPERTIES:
        for arg in p.args:
            if arg.startswith(start):
                return word(arg[len(start) :])
    return ""


def name(p: Program) -> str:
    """The name of a Java program, "" if nothing tells."""
    found = stated(p)
    if found:
        return found
    kind, what = target(p)
    if kind == "jar":
        return _of_jar(p, what)
    if kind == "class":
        return _of_class(p, what)
    if kind == "module":
        module, _, main = what.partition("/")
        return _of_class(p, main) if main and main not in PRODUCTS else _of_class(p, module)
    return stem(what) if kind == "source" else ""


def _of_jar(p: Program, path: str) -> str:
    found, _ = jar(p)
    if found in JARS:
        return JARS[found]
    if found.endswith("-runner"):
        found = VERSION.sub(r"\1", found[:-7])  # Quarkus: shop-1.0-runner.jar
    return beside(path, p.cwd) or found if found.lower() in GENERIC else found


def _of_class(p: Program, dotted: str) -> str:
    if dotted in PRODUCTS:
        return PRODUCTS[dotted]
    if dotted.startswith(LAUNCHERS):
        return _of_class_path(p) or folder(p.cwd)
    parts = [part for part in dotted.replace("/", ".").split(".") if word(part)]
    for i, part in enumerate(reversed(parts)):
        if part.lower() not in GENERIC and not (i and part in DOMAINS):
            return part.removesuffix("Kt") or part
    return _of_class_path(p) or folder(p.cwd) or (parts[-1] if parts else "")


def _of_class_path(p: Program) -> str:
    """The only jar or folder of the class path."""
    for i, arg in enumerate(p.args[:-1]):
        if arg in ("-cp", "-classpath", "--class-path"):
            path = p.args[i + 1]
            if ":" in path or "*" in path or path in (".", "./", ""):
                return ""
            found = stem(path) if posixpath.splitext(base(path))[1] in (".jar", ".war") else ""
            match = VERSION.fullmatch(found)
            found = match[1] if match else found
            return found if found and found.lower() not in GENERIC else ""
    return ""
