import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import scienceworld.runtime.pythonapi.PythonInterface;

/**
 * The simulator's own speed: the calls of an episode made inside its JVM, without any protocol.
 *
 * Arguments: task, variation, file of actions (one a line). The last line printed is `own <steps> <seconds>`.
 */
public final class InProcess {
  public static void main(String[] args) throws Exception {
    List<String> actions = Files.readAllLines(Path.of(args[2]));
    PythonInterface simulator = new PythonInterface();
    simulator.load(args[0], Integer.parseInt(args[1]), "", false);
    simulator.getTaskDescription();
    simulator.freeActionLook();
    int steps = 0;
    boolean over = false;
    long start = System.nanoTime();
    for (String action : actions) {
      if (over) break;
      simulator.step(action);
      double score = simulator.getScore();
      over = simulator.getCompleted() || score < 0;
      simulator.getNumMoves();
      steps++;
    }
    double seconds = (System.nanoTime() - start) / 1e9;
    System.out.println("\nown " + steps + " " + seconds);
    System.exit(0);
  }
}
