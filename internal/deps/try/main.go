package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"harness.example/harness/cluster"
)

func main() {
	ctx := context.Background()
	c, err := cluster.Config{}.WithDefaults()
	if err != nil {
		panic(err)
	}
	p := func(e cluster.Event) {
		fmt.Printf("%s %-8s %s/%s %.1fs %s\n", time.Now().Format("15:04:05"), e.State, e.Parent, e.Step, e.Elapsed.Seconds(), e.Detail)
	}
	switch os.Args[1] {
	case "up":
		if os.Getenv("HARNESS_NETNS") == "" {
			if err := cluster.Prepare(ctx, c, p); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		if err := cluster.Enter(c); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		a, err := cluster.Up(ctx, c, p)
		fmt.Println(a, err)
	case "down":
		fmt.Println(cluster.Enter(c))
		fmt.Println(cluster.Down(ctx, c, p))
		fmt.Println(cluster.Leaks(ctx, c))
	}
}
