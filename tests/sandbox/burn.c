/* burn SECONDS [PROCESSES [DUTY_PERCENT]]: keeps CPUs busy. Called burn-heavy it does the same, and the power plant
 * makes it draw more. */
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void burn(double until, double duty)
{
    const double period = 0.02;
    volatile uint64_t x = 1;
    for (double t = now(); t < until; t = now()) {
        while (now() < t + period * duty)
            for (int i = 0; i < 20000; i++) x = x * 6364136223846793005u + 1442695040888963407u;
        if (duty < 1) usleep((1 - duty) * period * 1e6);
    }
}

int main(int argc, char **argv)
{
    double until = now() + (argc > 1 ? atof(argv[1]) : 10), duty = (argc > 3 ? atof(argv[3]) : 100) / 100;
    for (int child = argc > 2 ? atoi(argv[2]) : 1; child > 1; child--)
        if (!fork()) { burn(until, duty); return 0; }
    burn(until, duty);
    while (wait(NULL) > 0) ;
    return 0;
}
